//! Bodies written from a model are read as the model says.

use super::{BatchFrame, read_batch, read_object};
use proptest::prelude::*;
use serde::de::IgnoredAny;
use std::collections::HashSet;

const NAMES: [&str; 2] = ["a", "b"];

/// A JSON document, in which objects may repeat keys.
#[derive(Clone, Debug)]
enum Node {
    Scalar(&'static str),
    Array(Vec<Node>),
    /// Keys as they are written, with their meaning.
    Object(Vec<((&'static str, &'static str), Node)>),
}

impl Node {
    fn write(&self, out: &mut String) {
        match self {
            Self::Scalar(text) => out.push_str(text),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { " ,\n" });
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(pairs) => {
                out.push('{');
                for (index, ((key, _), value)) in pairs.iter().enumerate() {
                    out.push_str(if index == 0 { " " } else { ",\t" });
                    out.push_str(key);
                    out.push_str(" :");
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    /// Whether some object within repeats a key.
    fn repeats(&self) -> bool {
        match self {
            Self::Scalar(_) => false,
            Self::Array(items) => items.iter().any(Self::repeats),
            Self::Object(pairs) => {
                repeats_key(pairs) || pairs.iter().any(|(_, value)| value.repeats())
            }
        }
    }

    /// What the fields `a` and `b` are; `None` for what must be refused.
    fn fields(&self) -> Option<[Option<String>; 2]> {
        let Self::Object(pairs) = self else {
            return None;
        };
        let is_unknown = |name: &str| !NAMES.contains(&name);
        let is_refused = repeats_key(pairs)
            || pairs
                .iter()
                .any(|((_, name), value)| is_unknown(name) && value.repeats());
        (!is_refused).then(|| {
            NAMES.map(|name| {
                let found = pairs.iter().find(|((_, key), _)| *key == name);
                found
                    .map(|(_, value)| value.text())
                    .filter(|text| text != "null")
            })
        })
    }
}

fn repeats_key(pairs: &[((&str, &str), Node)]) -> bool {
    let names: HashSet<_> = pairs.iter().map(|((_, name), _)| name).collect();
    names.len() < pairs.len()
}

fn node() -> impl Strategy<Value = Node> {
    let scalars = [
        "null",
        "true",
        "-1.5e3",
        "0",
        r#""""#,
        r#""\\\"{[,:""#,
        r#""\u0061\ud83d\ude00""#,
    ];
    let keys = [
        (r#""a""#, "a"),
        (r#""\u0061""#, "a"),
        (r#""b""#, "b"),
        (r#""x""#, "x"),
        (r#""\u0078""#, "x"),
        (r#""y\"""#, "y\""),
        (r#""""#, ""),
    ];
    let leaf = prop::sample::select(scalars.to_vec()).prop_map(Node::Scalar);
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let pair = (prop::sample::select(keys.to_vec()), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Node::Array),
            prop::collection::vec(pair, 0..6).prop_map(Node::Object),
        ]
    })
}

proptest! {
    #[test]
    fn an_object_is_read_as_it_was_written(node in node()) {
        let text = node.text();
        let expected = node.fields();
        let read = read_object(text.as_bytes(), &NAMES).ok();
        let read = read.map(|fields| fields.values.map(|value| value.map(str::to_owned)));
        prop_assert_eq!(read, expected, "{}", text);
    }

    #[test]
    fn a_batch_is_read_as_its_items_are(nodes in prop::collection::vec(node(), 0..5)) {
        let body = format!("{{\"transactions\":{}}}", Node::Array(nodes.clone()).text());
        let mut items = Vec::new();
        let frame = read_batch(body.as_bytes(), &NAMES, 10, |item| {
            items.push(item.ok().map(|f| f.values.map(|value| value.map(str::to_owned))));
        });
        prop_assert_eq!(frame, Ok(BatchFrame { atomic: false, count: nodes.len() }));
        let expected: Vec<_> = nodes.iter().map(Node::fields).collect();
        prop_assert_eq!(items, expected, "{}", body);
    }

    #[test]
    fn what_serde_refuses_is_refused(node in node(), at in any::<prop::sample::Index>(), by in "[ -~]?") {
        let mut text = node.text();
        let at = at.index(text.len());
        text.replace_range(at..=at, &by);
        if serde_json::from_str::<IgnoredAny>(&text).is_err() {
            prop_assert!(read_object(text.as_bytes(), &NAMES).is_err(), "{}", text);
            let body = format!("{{\"transactions\":[{text}]}}");
            prop_assert!(
                serde_json::from_str::<IgnoredAny>(&body).is_ok()
                    || read_batch(body.as_bytes(), &NAMES, 10, |_| {}).is_err(),
                "{}", body
            );
        }
    }
}
