//! Meters, in the words of `ovs-ofctl add-meter`: `meter=1,kbps,burst,bands=type=drop,rate=1000,burst_size=500`.
//!
//! Written shorter here: `meter=1,kbps,rate=1000,burst_size=500`; both are read.

use super::scan::{Word, did_you_mean, words};
use super::value::{parse_number, parse_within};
use crate::METER_MAX;
use crate::fault::Fault;
use crate::v1::{Meter, MeterUnit};

const WORDS: [&str; 6] = ["meter", "kbps", "pktps", "rate", "burst_size", "burst"];

/// The number of a meter.
pub(super) fn number(word: Word<'_>) -> Result<u32, Fault> {
    parse_within(word, "meter", 1..=METER_MAX)
}

/// Reads a meter.
///
/// # Errors
/// A [`Fault`] whose field is the column, with what is wrong there and what to write instead.
pub fn parse_meter(text: &str) -> Result<Meter, Fault> {
    let line = Word::line(text);
    let mut meter = Meter::default();
    for word in words(line)? {
        // Open vSwitch begins the one band with "band=" or "bands=".
        let word = match word.split_once("=") {
            Some((name, band)) if matches!(name.text, "band" | "bands") => band,
            _ => word,
        };
        let (name, value) = word.split_once("=").map_or((word, None), |(name, value)| (name, Some(value)));
        let required = || {
            value.ok_or_else(|| {
                word.fault(
                    "bad_syntax",
                    format!("{} is written without a value", name.text),
                    format!("Write {}=NUMBER.", name.text),
                )
            })
        };
        match name.text {
            "meter" => meter.meter = number(required()?)?,
            "kbps" | "pktps" => {
                let unit = if name.text == "kbps" { MeterUnit::Kilobits } else { MeterUnit::Packets };
                if ![MeterUnit::Unspecified, unit].contains(&meter.unit()) {
                    return Err(word.fault("bad_value", "the meter has two units", "Write kbps or pktps, not both."));
                }
                meter.unit = unit.into();
            }
            "rate" => meter.rate = parse_number(required()?, "rate", 32)? as u32,
            "burst_size" => {
                let value = required()?;
                meter.burst = parse_number(value, "burst_size", 32)? as u32;
                if meter.burst == 0 {
                    let remedy = "Leave it out, or write kilobits, or packets, from 1 on.";
                    return Err(value.fault("bad_value", "a burst of 0 would let nothing through", remedy));
                }
            }
            // Said by Open vSwitch, and so here without saying.
            "burst" | "stats" if value.is_none() => {}
            "type" if value.is_some_and(|value| value.text == "drop") => {}
            "type" => {
                return Err(word.fault(
                    "unsupported",
                    "meters drop what exceeds their rate, and nothing else",
                    "Write type=drop, or leave it out.",
                ));
            }
            other => {
                let meant = did_you_mean(other, WORDS);
                let remedy = if meant.is_empty() {
                    "Write meter=1,kbps,rate=1000,burst_size=500.".to_owned()
                } else {
                    meant.trim_start().to_owned()
                };
                return Err(word.fault("unknown_field", format!("\"{other}\" says nothing about a meter"), remedy));
            }
        }
    }
    let missing =
        |what: &str, remedy: &str| Err(line.fault("missing_field", format!("the meter has no {what}"), remedy));
    if meter.meter == 0 {
        return missing("number", "Write meter=1.");
    }
    if meter.unit() == MeterUnit::Unspecified {
        return missing("unit", "Write kbps (kilobits a second) or pktps (packets a second).");
    }
    if meter.rate == 0 {
        return missing("rate", "Write rate=1000.");
    }
    Ok(meter)
}

/// Writes a meter as [`parse_meter`] reads it.
#[must_use]
pub fn format_meter(meter: &Meter) -> String {
    let unit = match meter.unit() {
        MeterUnit::Kilobits => "kbps",
        MeterUnit::Packets => "pktps",
        MeterUnit::Unspecified => "no_unit",
    };
    let burst = if meter.burst == 0 { String::new() } else { format!(",burst_size={}", meter.burst) };
    format!("meter={},{unit},rate={}{burst}", meter.meter, meter.rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_ways_of_writing_are_read() {
        let short = "meter=1,kbps,rate=1000,burst_size=500";
        for line in [
            short,
            "meter=1 kbps burst stats bands=type=drop rate=1000 burst_size=500",
            "rate=0x3e8,burst_size=500,meter=1,kbps",
        ] {
            assert_eq!(format_meter(&parse_meter(line).unwrap()), short, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, code, part) in [
            ("kbps,rate=5", "missing_field", "no number"),
            ("meter=1,rate=5", "missing_field", "no unit"),
            ("meter=1,pktps", "missing_field", "no rate"),
            ("meter=1,kbps,pktps,rate=1", "bad_value", "two units"),
            ("meter=0,pktps,rate=1", "bad_value", "there is no meter 0. Write 1 to"),
            ("meter=1,pktps,rate=1,burst_size=0", "bad_value", "a burst of 0 would let nothing through"),
            ("meter=1,pktps,rte=1", "unknown_field", "rate"),
            ("meter=1,pktps,rate", "bad_syntax", "rate=NUMBER"),
            ("meter=1,pktps,rate=1,type=dscp_remark", "unsupported", "type=drop"),
        ] {
            let fault = parse_meter(line).expect_err(line);
            assert_eq!(fault.code, code, "{line}");
            assert!(fault.to_string().contains(part), "{fault}");
        }
    }

    proptest! {
        #[test]
        fn a_meter_comes_back_as_it_was(number in 1..=METER_MAX, packets: bool, rate in 1..=u32::MAX, burst: u32) {
            let unit = if packets { MeterUnit::Packets } else { MeterUnit::Kilobits };
            let meter = Meter { meter: number, unit: unit.into(), rate, burst };
            prop_assert_eq!(parse_meter(&format_meter(&meter)).unwrap(), meter);
        }
    }
}
