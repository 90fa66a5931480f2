//! How the service is: probes, metrics, watermarks.

use super::answer::{self, Body, write_integer, write_string, write_time};
use super::service::{Ask, Health, Services};
use crate::event::write_sequence;
use hyper::header::{HOST, HeaderValue};
use hyper::{Response, StatusCode};
use std::io::Write;

/// `GET /health`: it answers, as the old service did.
pub(super) fn health(ask: &Ask<'_>) -> Response<Body> {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(
        b"{\"status\":\"healthy\",\"service\":\"transaction-service\",\"timestamp\":\"",
    );
    write_time(&mut out, ask.services().clock.now());
    out.extend_from_slice(b"\",\"version\":");
    write_string(&mut out, env!("CARGO_PKG_VERSION"));
    out.push(b'}');
    answer::json(StatusCode::OK, out)
}

/// `GET /livez`: it answers; whether it can work, `readyz` tells.
pub(super) fn livez() -> Response<Body> {
    answer::json(StatusCode::OK, b"{\"status\":\"alive\"}".to_vec())
}

/// `GET /readyz`: each component with `ok` or what is wrong with it.
pub(super) fn readyz(ask: &Ask<'_>) -> Response<Body> {
    let components = (ask.services().readiness)();
    let is_ready = !components
        .iter()
        .any(|(_, health)| matches!(health, Health::Failed(_)));
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(b"{\"status\":\"");
    out.extend_from_slice(if is_ready { b"ready" } else { b"not ready" });
    out.extend_from_slice(b"\",\"components\":{");
    for (index, (component, health)) in components.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(&mut out, component);
        out.push(b':');
        let text = match health {
            Health::Ok => "ok",
            Health::Degraded(reason) | Health::Failed(reason) => reason,
        };
        write_string(&mut out, text);
    }
    out.extend_from_slice(b"}}");
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    answer::json(status, out)
}

/// `GET /metrics`: for Prometheus.
pub(super) fn metrics(ask: &Ask<'_>) -> Response<Body> {
    let text = (ask.services().render_metrics)();
    let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    answer::with_type(
        StatusCode::OK,
        text.into_bytes(),
        HeaderValue::from_static(media),
    )
}

/// `GET /api/v1/metrics/service`: the old service's own counts.
pub(super) fn service_metrics(ask: &Ask<'_>) -> Response<Body> {
    let mut out = Vec::with_capacity(1024);
    ask.state.counters.write(&mut out);
    answer::json(StatusCode::OK, out)
}

/// `GET /api/v1/sequence`: how far everything has come.
pub(super) fn sequence(ask: &Ask<'_>) -> Response<Body> {
    let Services {
        reader,
        pipeline,
        tracker,
        ..
    } = ask.services();
    // Why in this order: each of these marks only follows `durable`, so reading it last keeps them at or below it.
    let published = pipeline.published().get();
    let delivered = tracker.delivered().get();
    let witness = reader.witness();
    let durable = reader.durable().get();
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"journal\":");
    write_string(&mut out, &reader.identity().to_string());
    for (name, sequence) in [
        ("durable", durable),
        ("published", published),
        ("delivered", delivered),
        ("base", reader.oldest()),
    ] {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        write_sequence(&mut out, sequence);
    }
    out.extend_from_slice(b",\"head_hash\":\"");
    for byte in witness.head_hash {
        // Writing into a Vec cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out.extend_from_slice(b"\"}");
    answer::json(StatusCode::OK, out)
}

/// `GET /api/v1/events/quarantine`: what the broker refused for good since the start, newest last, bounded by a setting.
pub(super) fn quarantine(ask: &Ask<'_>) -> Response<Body> {
    let refused = ask.services().pipeline.quarantine();
    let mut out = Vec::with_capacity(64 + refused.len() * 128);
    out.extend_from_slice(b"{\"quarantined\":[");
    for (at, (sequence, reason)) in refused.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"sequence\":");
        write_sequence(&mut out, *sequence);
        out.extend_from_slice(b",\"reason\":");
        write_string(&mut out, reason);
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"count\":");
    write_integer(&mut out, refused.len() as u64);
    out.push(b'}');
    answer::json(StatusCode::OK, out)
}

/// `GET /api/v1/ws/info`: where to subscribe, under the name by which the client came.
pub(super) fn websocket_info(ask: &Ask<'_>) -> Response<Body> {
    let Services {
        tracker, reader, ..
    } = ask.services();
    let host = ask.headers.get(HOST).and_then(|host| host.to_str().ok());
    let url = match host {
        Some(host) => format!("ws://{host}/ws/transactions"),
        None => "/ws/transactions".to_owned(),
    };
    let mut out = Vec::with_capacity(192);
    out.extend_from_slice(b"{\"active_connections\":");
    write_integer(&mut out, tracker.stats().connections);
    out.extend_from_slice(b",\"websocket_url\":");
    write_string(&mut out, &url);
    out.extend_from_slice(b",\"journal\":");
    write_string(&mut out, &reader.identity().to_string());
    out.push(b'}');
    answer::json(StatusCode::OK, out)
}
