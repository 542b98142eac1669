//! What a person reads instead of a cookie: texts by cookie, bounded.

use crate::limits::{ORIGIN_BYTES, ORIGINS};
use std::collections::{HashMap, HashSet};
use weft_proto::fault::Fault;
use weft_proto::v1;

/// Texts by cookie.
#[derive(Default)]
pub(super) struct Origins {
    texts: HashMap<u64, String>,
}

impl Origins {
    /// The text of a cookie; empty if none is known.
    pub(super) fn text(&self, cookie: u64) -> &str {
        self.texts.get(&cookie).map_or("", String::as_str)
    }

    /// Refuses texts that are too long, or too many even after [`Origins::add`] forgets those unused.
    pub(super) fn check(new: &[v1::Origin]) -> Result<(), Fault> {
        if new.len() > ORIGINS {
            return Err(Fault::invalid(
                "limit_exceeded",
                "origins",
                format!("{} origins are more than the {ORIGINS} the switch keeps", new.len()),
                "Use one cookie for the rules of one object.",
            ));
        }
        match new.iter().position(|origin| origin.text.len() > ORIGIN_BYTES || origin.text.contains('\n')) {
            None => Ok(()),
            Some(index) => Err(Fault::invalid(
                "bad_origin",
                format!("origins[{index}].text"),
                "the text is more than one line",
                format!("Use one line of at most {ORIGIN_BYTES} bytes."),
            )),
        }
    }

    /// Learns texts. When there are too many, those that `used` does not name are forgotten; it is asked
    /// only then.
    pub(super) fn add(&mut self, new: Vec<v1::Origin>, used: impl FnOnce() -> HashSet<u64>) {
        if self.texts.len() + new.len() > ORIGINS {
            let used = used();
            self.texts.retain(|cookie, _| used.contains(cookie));
        }
        for origin in new {
            if self.texts.len() < ORIGINS || self.texts.contains_key(&origin.cookie) {
                self.texts.insert(origin.cookie, origin.text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(cookie: u64) -> v1::Origin {
        v1::Origin { cookie, text: format!("object {cookie}") }
    }

    #[test]
    fn texts_are_bounded_and_unused_ones_go_first() {
        let mut origins = Origins::default();
        origins.add((0..ORIGINS as u64).map(origin).collect(), || unreachable!("there is room"));
        origins.add(vec![origin(u64::MAX)], || HashSet::from([7]));
        assert_eq!(origins.text(7), "object 7");
        assert_eq!(origins.text(8), "");
        assert_eq!(origins.text(u64::MAX), format!("object {}", u64::MAX));
    }

    #[test]
    fn long_texts_are_refused() {
        let long = v1::Origin { cookie: 1, text: "x".repeat(ORIGIN_BYTES + 1) };
        assert_eq!(Origins::check(&[origin(1), long]).unwrap_err().field, "origins[1].text");
        assert!(Origins::check(&[origin(1)]).is_ok());
    }
}
