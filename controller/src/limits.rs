//! Every resource that requests, hosts or calls can consume, bounded and named in one place.

/// Projects of one cloud.
pub const PROJECTS: usize = 10_000;

/// Networks of one cloud.
pub const NETWORKS: usize = 16_000;

/// Subnets of one network.
pub const SUBNETS_PER_NETWORK: usize = 16;

/// Ports of one cloud.
pub const PORTS: usize = 200_000;

/// Ports of one network: each is a rule or more on every host of the network.
pub const PORTS_PER_NETWORK: usize = 8192;

/// Hosts of one cloud.
pub const HOSTS: usize = 1000;

/// Ports plugged on one host. A switch has room for 4096 ports, the tunnel and hand-made ones included.
pub const PORTS_PER_HOST: usize = 2000;

/// Ports of one network on one host, and hosts of one network: together they fill the rule that
/// floods (two actions for each port, which are one of the 512 branches that a packet may have; two for each host),
/// and a switch takes 2048 actions in a rule.
pub const PORTS_PER_NETWORK_AND_HOST: usize = 250;
/// See [`PORTS_PER_NETWORK_AND_HOST`].
pub const HOSTS_PER_NETWORK: usize = 380;

const _: () = assert!(2 * PORTS_PER_NETWORK_AND_HOST + 1 + 2 * HOSTS_PER_NETWORK <= 2048);
const _: () = assert!(PORTS_PER_NETWORK_AND_HOST <= 512);

/// Routers of one cloud.
pub const ROUTERS: usize = 10_000;

/// Subnets joined to one router, and its extra routes: a host has a rule for each pair of a subnet that a packet may
/// come from and a subnet or route that it may take.
pub const INTERFACES_PER_ROUTER: usize = 64;
/// See [`INTERFACES_PER_ROUTER`].
pub const ROUTES_PER_ROUTER: usize = 64;

/// Routers' interfaces in one network. A change of a port touches the hosts of all networks that they lead to.
pub const ROUTERS_PER_NETWORK: usize = 16;

/// Floating IPs of one cloud. Those of one external network, and the gateways of routers there, are ports of it.
pub const FLOATING_IPS: usize = 50_000;

/// Allocation pools of one subnet.
pub const ALLOCATION_POOLS: usize = 16;

/// Fixed addresses of one port.
pub const ADDRESSES_PER_PORT: usize = 16;

/// Security groups of one cloud: each project's "default", and others.
pub const SECURITY_GROUPS: usize = 50_000;

/// Rules of one security group.
pub const RULES_PER_GROUP: usize = 200;

/// Security groups of one port.
pub const GROUPS_PER_PORT: usize = 16;

/// Rules of flow tables that the security groups of one port may come to, in one direction. A range of ports is
/// several (see `Ports::blocks`). A switch has room for a million rules.
pub const FIREWALL_RULES_PER_PORT: usize = 400;

/// Addresses of the ports of one security group, their address pairs included. A switch takes 65,536 members in an
/// address set.
pub const GROUP_MEMBERS: usize = 65_536;

/// Address pairs of one port.
pub const ADDRESS_PAIRS_PER_PORT: usize = 10;

/// The shortest prefix of an address pair. Who needs more turns port security off.
pub const ADDRESS_PAIR_PREFIX: u8 = 8;

/// Ports of reactive networks that one host is told of because it asked. Of more, the one used longest ago goes.
pub const SUBSCRIPTIONS_PER_HOST: usize = 4096;

/// Seconds that such a port may be unused, and between two looks at which are used: a subscription ends late by as much.
pub const SUBSCRIPTION_IDLE_SECONDS: u64 = 300;
/// See [`SUBSCRIPTION_IDLE_SECONDS`].
pub const SUBSCRIPTION_LOOK_SECONDS: u64 = 60;

/// Destinations that one host may ask for in a second, and in one message. It asks again for what is not heard.
pub const QUESTIONS_PER_SECOND: usize = 2000;
/// See [`QUESTIONS_PER_SECOND`].
pub const QUESTIONS_PER_MESSAGE: usize = 256;

/// Characters of a description.
pub const DESCRIPTION_CHARACTERS: usize = 255;

/// DNS servers of one subnet: 4 bytes each in one DHCP option.
pub const DNS_SERVERS: usize = 8;

/// Host routes of one subnet: at most 9 bytes each, and the default route, in one DHCP option of at
/// most 255 bytes (RFC 3442).
pub const HOST_ROUTES: usize = 16;

/// Characters of a name.
pub const NAME_CHARACTERS: usize = 63;

/// Bytes of one message of a bundle that travels in several.
pub const BUNDLE_PART_BYTES: usize = 1_000_000;

/// Bytes of one message that is received, from a person or a switch.
pub const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of one relayed request: it must fit one message to the switch, which takes 4 MiB.
pub const RELAY_REQUEST_BYTES: usize = 3 * 1024 * 1024;

/// Bytes of replies that one relayed call may have waiting for a caller who does not read them.
pub const RELAY_REPLY_BYTES: usize = 16 * 1024 * 1024;

/// Relayed calls under way to one host.
pub const CALLS_PER_HOST: usize = 64;

/// Messages to one switch that wait to be sent.
pub const OUTBOUND_MESSAGES: usize = 64;

/// Milliseconds between two bundles to one host: changes in between travel together.
pub const GROUP_MILLISECONDS: u64 = 3;

/// Seconds a switch has to acknowledge a bundle, or to answer a comparison, before it is disconnected.
pub const ACKNOWLEDGE_SECONDS: u64 = 30;

/// Connections to the bus by TLS, those included that have not shown a certificate yet: two for each host, and as many
/// again for hosts that connect anew.
pub const BUS_CONNECTIONS: usize = 4 * HOSTS;

/// Those of them that have shown no certificate: machines that join.
pub const JOINING_CONNECTIONS: usize = 64;

/// Seconds that a machine has to join once it is connected.
pub const JOINING_SECONDS: u64 = 30;

/// Seconds a TLS handshake may take.
pub const HANDSHAKE_SECONDS: u64 = 10;

/// Calls under way on one connection to the bus.
pub const BUS_STREAMS: u32 = 16;

/// Bytes of one request to join or to renew.
pub const MEMBERSHIP_BYTES: usize = 4096;

/// Days that a host's certificate is valid. Hosts renew it when half of them are over.
pub const CERTIFICATE_DAYS: u64 = 365;

/// Seconds a join token lives unless said otherwise, and at most.
pub const JOIN_TOKEN_SECONDS: u64 = 3600;
/// See [`JOIN_TOKEN_SECONDS`].
pub const JOIN_TOKEN_SECONDS_MOST: u64 = 7 * 86_400;

/// Seconds a program has to say Hello.
pub const HELLO_SECONDS: u64 = 10;

/// Seconds within which a connected switch must show life when another one takes its name.
pub const PROBE_SECONDS: u64 = 3;

/// Seconds for which a connected host shows that another switch was refused under its name. One that goes on
/// trying does so every few seconds.
pub const REFUSAL_NOTE_SECONDS: u64 = 60;

/// Seconds until a refused bundle is sent again: the first time, and at most.
pub const RETRY_SECONDS: u64 = 1;
/// See [`RETRY_SECONDS`].
pub const RETRY_SECONDS_MOST: u64 = 30;

/// Seconds a relayed call may take, or a streaming one be silent.
pub const RELAY_SECONDS: u64 = 15;

/// Switches that one packet is followed through, one way: more only come of rules that send it in circles.
pub const PATH_HOPS: usize = 8;

/// Seconds between two HTTP/2 keepalive pings, and until one counts as unanswered.
pub const KEEPALIVE_SECONDS: u64 = 5;

/// Milliseconds that a request may wait for a port to become active.
pub const WAIT_MILLISECONDS: u32 = 120_000;

/// Revisions of the store that a watcher may lag behind.
pub const STORE_HISTORY: u64 = 10_000;

/// Identifiers of requests that a bundle names; of more, the first count.
pub const REQUESTS_PER_BUNDLE: usize = 16;
