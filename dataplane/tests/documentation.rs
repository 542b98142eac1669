//! The reference pages against the code: tables that a reader relies on must not drift from what they list.

use weft_dataplane::drop::DropReason;
use weft_proto::field::FIELDS;

const SWITCH: &str = include_str!("../../docs/switch.md");
const DEPENDENCIES: &str = include_str!("../../docs/dependencies.md");
const CONTRIBUTING: &str = include_str!("../../CONTRIBUTING.md");
const WORKSPACE: &str = include_str!("../../Cargo.toml");

/// The cells of the table row that begins with this cell.
fn row<'a>(page: &'a str, first: &str) -> Option<Vec<&'a str>> {
    page.lines()
        .map(|line| line.split('|').skip(1).map(str::trim).collect())
        .find(|cells: &Vec<&str>| cells.first() == Some(&first))
}

#[test]
fn every_drop_reason_is_explained() {
    for reason in DropReason::ALL {
        let cells = row(SWITCH, &format!("`{}`", reason.word()));
        let meaning = cells.as_ref().and_then(|cells| cells.get(1).copied());
        assert_eq!(meaning, Some(reason.meaning()), "docs/switch.md, table \"Drop reasons\", {}", reason.word());
    }
}

#[test]
fn every_field_is_listed() {
    for field in FIELDS {
        let cells = row(SWITCH, &format!("`{}`", field.name)).unwrap_or_default();
        let aliases: Vec<String> = field.aliases.iter().map(|alias| format!("`{alias}`")).collect();
        let expected = [aliases.join(", "), field.bits.to_string()];
        assert_eq!(cells.get(1..3), Some(&[expected[0].as_str(), &expected[1]][..]), "docs/switch.md, {}", field.name);
        let writable = if field.writable { "yes" } else { "" };
        assert_eq!(cells.get(5).copied(), Some(writable), "docs/switch.md, {}: can it be set?", field.name);
        let needs = cells.get(4).is_some_and(|cell| !cell.is_empty());
        assert_eq!(needs, !field.prerequisites.is_empty(), "docs/switch.md, {}: what does it need?", field.name);
    }
}

#[test]
fn every_direct_dependency_has_a_reason() {
    let workspace: toml::Table = WORKSPACE.parse().expect("the workspace's manifest is TOML");
    let crates = workspace["workspace"]["dependencies"].as_table().expect("it lists the dependencies");
    for name in crates.keys().filter(|name| !name.starts_with("weft-")) {
        let listed =
            DEPENDENCIES.lines().filter(|line| line.starts_with('|')).any(|line| line.contains(&format!("`{name}`")));
        assert!(listed, "docs/dependencies.md has no row for {name}");
    }
}

/// The page names folders in front of files ("in `controller/src/`: `store/record.rs`"), and files by their
/// ending alone where the folder is clear (`pipeline.rs` beside `compile/network.rs`).
#[test]
fn every_file_to_touch_exists() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let rows: Vec<&str> = CONTRIBUTING.lines().filter(|line| line.starts_with("| **")).collect();
    assert!(rows.len() >= 7, "CONTRIBUTING.md, \"How to add …\": the table is gone");
    for row in rows {
        let (mut base, mut beside) = (root.clone(), root.clone());
        for name in row.split('`').skip(1).step_by(2).filter(|name| !name.contains("NAME")) {
            if !(name.contains('/') || name.ends_with(".rs")) {
                // A type, a value or a method.
                continue;
            }
            let places = [root.join(name), base.join(name), beside.join(name)];
            let found = places.into_iter().find(|path| path.exists());
            let found = found.unwrap_or_else(|| panic!("CONTRIBUTING.md names {name}, which does not exist: {row}"));
            if name.ends_with('/') {
                base.clone_from(&found);
            }
            beside = found.parent().map_or(found.clone(), Into::into);
        }
    }
}
