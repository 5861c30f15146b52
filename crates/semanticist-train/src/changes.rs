//! What differs between the configuration that a run was started with and the one it is to go on with.

use std::fmt;

use semanticist::{Error, Result};
use serde::Serialize;
use serde_json::Value;

/// What may change at any time: it decides what is said and measured, not what is computed. The parts of a
/// batch are as good as the whole to rounding, and blocks that are computed twice as those that are kept.
const FREE: [&str; 6] =
    ["log", "validation", "data.workers", "accumulate", "checkpoint_blocks", "skips_in_a_row"];

/// What cannot change in a run: the weights are of it.
const FIXED: &str = "model";

/// What can neither come nor go, as it has weights of its own, though its numbers may change; whose weights they are; and what
/// stays as it is, by which the model's file says whose tokens it gives.
const PRESENT: [&str; 5] = [
    "objective.linear_readout",
    "objective.distillation",
    "objective.distillation.teacher",
    "objective.frozen_encoder",
    "objective.frozen_tokens",
];

/// Whether a run goes on under conditions that it was not started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    /// No; the result is that of an uninterrupted run.
    Refuse,
    /// Yes; what changed is told.
    Accept,
}

/// A field that has another value now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its place in the file, such as `learning_rate.peak`.
    pub field: String,
    before: Option<String>,
    now: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "not given".into());
        write!(f, "{}: was {}, is {}", self.field, value(&self.before), value(&self.now))
    }
}

/// All fields that differ between two configurations.
pub fn between(before: &impl Serialize, now: &impl Serialize) -> Vec<Change> {
    let [before, now] = [json(before), json(now)];
    let mut changes = Vec::new();
    compare("", Some(&before), Some(&now), &mut changes);
    changes
}

fn json(config: &impl Serialize) -> Value {
    serde_json::to_value(config).expect("configurations are plain data")
}

fn compare(place: &str, before: Option<&Value>, now: Option<&Value>, changes: &mut Vec<Change>) {
    let [before, now] = [before, now].map(|value| value.filter(|value| !value.is_null()));
    if before == now {
        return;
    }
    if let (Some(Value::Object(before)), Some(Value::Object(now))) = (before, now) {
        let names = before.keys().chain(now.keys().filter(|name| !before.contains_key(*name)));
        for name in names {
            let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
            compare(&place, before.get(name), now.get(name), changes);
        }
        return;
    }
    let text = |value: Option<&Value>| value.map(Value::to_string);
    changes.push(Change { field: place.to_string(), before: text(before), now: text(now) });
}

/// Whether `field` is `place` or lies in it.
fn lies_in(field: &str, place: &str) -> bool {
    field.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The changes that are to be told, if the run may go on with all of them.
///
/// # Errors
/// If the model changed, or anything else does that the result depends on and that is not accepted.
pub fn allowed(changes: Vec<Change>, on_change: OnChange) -> Result<Vec<Change>> {
    let matters = |change: &Change| !FREE.iter().any(|place| lies_in(&change.field, place));
    let told: Vec<Change> = changes.into_iter().filter(matters).collect();
    let list = |changes: &[Change]| changes.iter().map(|change| format!("\n  {change}")).collect::<String>();
    let fixed: Vec<Change> = told
        .iter()
        .filter(|change| lies_in(&change.field, FIXED) || PRESENT.contains(&change.field.as_str()))
        .cloned()
        .collect();
    if !fixed.is_empty() {
        return Err(Error::Config(format!(
            "the run is of another model; give the same configuration, or start another run:{}",
            list(&fixed)
        )));
    }
    if on_change == OnChange::Refuse && !told.is_empty() {
        return Err(Error::RunChanged { changes: list(&told) });
    }
    Ok(told)
}

/// The change of a run's data, if its fingerprints differ.
pub fn of_data(before: &str, now: &str) -> Option<Change> {
    let changed = before != now;
    let of = |fingerprint: &str| Some(fingerprint.to_string());
    changed.then(|| Change {
        field: "the data (number of examples and fingerprint)".into(),
        before: of(before),
        now: of(now),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changes(before: Value, now: Value) -> Vec<Change> {
        between(&before, &now)
    }

    #[test]
    fn every_difference_is_told_with_its_place_and_values() {
        let before = json!({ "a": { "b": 1, "c": [1, 2] }, "d": "x", "gone": 1.5 });
        let now = json!({ "a": { "b": 2, "c": [1, 2] }, "d": "x", "new": null });
        let told: Vec<String> = changes(before, now).iter().map(Change::to_string).collect();
        assert_eq!(told, ["a.b: was 1, is 2", "gone: was 1.5, is not given"]);
    }

    #[test]
    fn what_only_decides_what_is_said_is_free() {
        let before =
            json!({ "log": { "every": 1 }, "validation": { "images": 2 }, "data": { "workers": 1 } });
        let now = json!({ "log": { "every": 5 }, "validation": { "images": 9 }, "data": { "workers": 2 } });
        assert!(allowed(changes(before, now), OnChange::Refuse).unwrap().is_empty());
    }

    #[test]
    fn the_rest_must_be_accepted_and_a_model_cannot_change() {
        let of = |name: &str| changes(json!({ name: { "peak": 1 } }), json!({ name: { "peak": 2 } }));
        let error = allowed(of("learning_rate"), OnChange::Refuse).unwrap_err().to_string();
        assert!(error.contains("learning_rate.peak: was 1, is 2"), "{error}");
        assert_eq!(allowed(of("learning_rate"), OnChange::Accept).unwrap().len(), 1);
        assert!(allowed(of("model"), OnChange::Accept).is_err());
        assert_eq!(allowed(of("models"), OnChange::Accept).unwrap().len(), 1);
    }
}
