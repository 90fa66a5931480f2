//! Which names lead nowhere but to this machine.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Whether `origin` (`http://localhost:3000`) is a page served by this machine.
pub(super) fn is_loopback_origin(origin: &str) -> bool {
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(is_loopback_authority)
}

/// Whether `authority` (host, perhaps with a port) names this machine: `localhost`, 127.0.0.0/8, `[::1]`.
pub(super) fn is_loopback_authority(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(host, port)| {
            host.parse() == Ok(Ipv6Addr::LOCALHOST)
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        });
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_loopback = host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback());
    is_loopback && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}
