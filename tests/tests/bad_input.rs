//! Requests that cannot be right: refused with a message that names the field and the remedy, and nothing changes.

use weft_tests::demo::Demo;
use weft_tests::serial;

/// Everything that the refused requests could have changed.
fn state(demo: &Demo) -> String {
    let lists =
        [&["project", "list"][..], &["network", "list", "--json"], &["subnet", "list", "--json"], &["host", "list"]];
    let mut state: String = lists.iter().map(|arguments| demo.weft(arguments).success()).collect();
    // Counters of rules move with traffic; what they match and do does not.
    for host in ["a", "b"] {
        let dumped = demo.weft(&["flows", "dump", host]).success();
        for line in dumped.lines() {
            state.push_str(line.find("priority=").map_or("", |place| &line[place..]));
            state.push('\n');
        }
    }
    state
}

#[test]
fn refused_requests_name_field_and_remedy_and_change_nothing() {
    let _turn = serial();
    let demo = Demo::start("bad-input");
    let before = state(&demo);
    let blue = |arguments: &[&str]| demo.weft(&[arguments, &["--project", "blue"]].concat());

    // Subnets.
    let create = ["subnet", "create", "second", "--network", "office", "--cidr"];
    blue(&[&create[..], &["10.0.0.128/25"]].concat()).refused(&["cidr", "10.0.0.128/25", "overlaps", "Choose"]);
    blue(&[&create[..], &["10.1.0.0"]].concat()).refused(&["cidr", "10.0.0.0/24"]);
    blue(&[&create[..], &["10.1.0.0/24", "--gateway", "10.2.0.1"]].concat()).refused(&["gateway_ip", "10.2.0.1"]);

    // Ports.
    let create = ["port", "create", "new", "--network", "office"];
    blue(&[&create[..], &["--address", "10.9.0.5"]].concat()).refused(&["fixed_ips[0]", "10.9.0.5"]);
    blue(&[&create[..], &["--address", "10.0.0.11"]].concat()).refused(&["fixed_ips[0]", "10.0.0.11"]);
    blue(&[&create[..], &["--mac", "01:00:00:00:00:01"]].concat()).refused(&["mac_address", "01:00:00:00:00:01"]);
    blue(&["port", "create", "new", "--network", "attic"]).refused(&["network", "attic"]);
    blue(&["port", "plug", "blue-1", "--host", "z", "--netns", "weft-nowhere"]).refused(&["host", "z"]);

    // What is in use.
    blue(&["port", "delete", "blue-1"]).refused(&["blue-1", "weft port unplug"]);
    blue(&["subnet", "delete", "office"]).refused(&["office"]);
    blue(&["network", "delete", "office"]).refused(&["office"]);
    demo.weft(&["project", "delete", "blue"]).refused(&["blue"]);
    demo.weft(&["host", "delete", "a"]).refused(&["a"]);

    // Names.
    demo.weft(&["host", "create", "a"]).refused(&["name", "another name"]);
    demo.weft(&["project", "create", "no spaces"]).refused(&["name", "no spaces"]);
    demo.weft(&["network", "create", "hall", "--project", "red"]).refused(&["project", "red"]);

    // Through the controller to a switch.
    demo.weft(&["flows", "dump", "z"]).refused(&["z", "weft host list"]);
    demo.weft(&["flows", "add", "a", "in_prot=1,actions=drop"]).refused(&["in_prot", "in_port"]);
    demo.weft(&["trace", "a", "in_port=1,colour=red"]).refused(&["colour"]);

    assert_eq!(state(&demo), before);
}
