//! What is shown was so at one moment.

use super::*;

#[test]
fn a_dump_shows_bundles_whole() {
    let bench = bench();
    let rules = |generation: u32| -> Vec<v1::Rule> {
        let matched = |index: u32| vec![exact(Field::Metadata, &u64::from(index << 4 | generation).to_be_bytes())];
        // More than are put in under one lock.
        (0..1500).map(|index| rule(generation, matched(index), vec![])).collect()
    };
    bench.manual(v1::Bundle { add_rules: rules(1), ..Default::default() }).unwrap();
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            for generation in 2..12 {
                let bundle = v1::Bundle {
                    add_rules: rules(generation),
                    remove_rules: rules(generation - 1),
                    ..Default::default()
                };
                bench.manual(bundle).unwrap();
            }
        });
        while !changing.is_finished() {
            let seen = bench.rules();
            let generations: BTreeSet<u64> = seen.iter().map(|state| state.rule.as_ref().unwrap().cookie).collect();
            assert_eq!((seen.len(), generations.len()), (1500, 1), "{generations:?}");
            assert_eq!(bench.switch.tables().tables[0].rules, 1500);
        }
    });
}

#[test]
fn a_table_renamed_by_hand_has_its_name_again_after_a_resynchronisation() {
    let bench = bench();
    let table = |table, name: &str| v1::TableConfig { table, name: name.to_owned(), ..Default::default() };
    let sync = |generation| v1::Bundle {
        term: 1,
        generation,
        replace_owner: v1::Owner::Fabric.into(),
        tables: vec![table(0, "classify"), table(40, "l2")],
        ..Default::default()
    };
    bench.fabric(sync(1)).unwrap();
    // Names that change places, and one that the fabric does not have.
    let tables = vec![table(0, "mine"), table(40, "classify"), table(9, "l2")];
    bench.manual(v1::Bundle { tables, ..Default::default() }).unwrap();
    bench.fabric(sync(2)).unwrap();
    let states = bench.switch.tables().tables;
    let names: Vec<_> = states
        .iter()
        .map(|state| state.config.as_ref().unwrap())
        .map(|config| (config.table, config.name.as_str()))
        .collect();
    assert_eq!(names.iter().filter(|(_, name)| !name.is_empty()).collect::<Vec<_>>(), [&(0, "classify"), &(40, "l2")]);
}
