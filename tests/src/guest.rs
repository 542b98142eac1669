//! A virtual machine, as small as one can be: the kernel of a Debian package, and busybox. It takes its address by DHCP, says
//! so on its console, and echoes what TCP connections to port 7000 send.
//!
//! libvirt starts it: a libvirtd of the test's own, with directories of its own in a mount namespace of its own, by
//! emulation, so that no hardware is needed.

use crate::bench::Bench;
use crate::{Outcome, eventually, run};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use weft_up::program::Program;

/// What its kernel needs for its network device.
const MODULES: [&str; 2] = ["kernel/drivers/virtio/virtio_pci.ko", "kernel/drivers/net/virtio_net.ko"];

const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module; done
/bin/busybox ip link set eth0 up
until /bin/busybox udhcpc -i eth0 -f -n -q -t 3 -T 2 -A 1 -O mtu -s /lease; do :; done
/bin/busybox nc -ll -p 7000 -e /echo
";

const ECHO: &str = "#!/bin/busybox sh
exec /bin/busybox cat
";

const LEASE: &str = "#!/bin/busybox sh
if [ \"$1\" = bound ]; then
    /bin/busybox ip addr add $ip/$mask dev eth0
    /bin/busybox ip link set eth0 mtu $mtu
    echo \"lease $ip mtu $(/bin/busybox cat /sys/class/net/eth0/mtu) mac $(/bin/busybox cat /sys/class/net/eth0/address)\"
fi
";

const LIBVIRTD: &str = "set -e
mkdir -p /run/libvirt /etc/libvirt
for directory in /run/libvirt /var/lib /var/cache /var/log /etc/libvirt; do mount -t tmpfs none $directory; done
for file in passwd group; do cp /etc/$file OWN/$file; done
echo libvirt-qemu:x:64055:64055::/:/bin/false >> OWN/passwd
echo libvirt-qemu:x:64055: >> OWN/group
for file in passwd group; do mount --bind OWN/$file /etc/$file; done
cat > /etc/libvirt/qemu.conf <<END
user = \"root\"
group = \"root\"
dynamic_ownership = 0
remember_owner = 0
security_driver = \"none\"
stdio_handler = \"file\"
namespaces = []
cgroup_controllers = []
END
printf 'auth_unix_rw = \"none\"\\nauth_unix_ro = \"none\"\\n' > OWN/libvirtd.conf
exec libvirtd -f OWN/libvirtd.conf -p OWN/libvirtd.pid
";

/// A kernel with its modules.
struct Kernel {
    file: PathBuf,
    /// In the order in which they are loaded.
    modules: Vec<PathBuf>,
}

impl Kernel {
    /// Any that is installed and can do it.
    fn find() -> Self {
        let boot = std::fs::read_dir("/boot").expect("there is /boot");
        let kernels = boot.filter_map(|file| file.ok()?.file_name().into_string().ok());
        let versions: BTreeSet<String> =
            kernels.filter_map(|file| Some(file.strip_prefix("vmlinuz-")?.into())).collect();
        let found = versions.iter().find_map(|version| {
            let directory = Path::new("/lib/modules").join(version);
            let dependencies = std::fs::read_to_string(directory.join("modules.dep")).ok()?;
            let mut modules: Vec<PathBuf> = Vec::new();
            for wanted in MODULES {
                let of = |line: &str| line.strip_prefix(wanted)?.strip_prefix(':').map(str::to_owned);
                let needed = dependencies.lines().find_map(of)?;
                // Who is needed by others stands last.
                for module in needed.split_whitespace().rev().chain([wanted]) {
                    let file = directory.join(module);
                    if !modules.contains(&file) {
                        modules.push(file);
                    }
                }
            }
            Some(Self { file: Path::new("/boot").join(format!("vmlinuz-{version}")), modules })
        });
        found.expect("no kernel in /boot has virtio_net as a module. Install it: deploy/prerequisites.sh test")
    }
}

/// An archive of files, as the kernel unpacks it at its start ("newc").
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<PathBuf>,
    count: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.count += 1;
        let fields = [self.count, mode, 0, 0, 1, 0, contents.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        fields.iter().for_each(|field| self.bytes.extend_from_slice(format!("{field:08x}").as_bytes()));
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.bytes.extend_from_slice(contents);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn directory(&mut self, path: &Path) {
        let parents: Vec<PathBuf> = path.ancestors().map(Path::to_path_buf).collect();
        for directory in parents.into_iter().rev().filter(|path| path.parent().is_some()) {
            if self.directories.insert(directory.clone()) {
                let name = directory.display().to_string();
                self.entry(name.trim_start_matches('/'), 0o040_755, &[]);
            }
        }
    }

    fn file(&mut self, path: &str, contents: &[u8]) {
        self.directory(Path::new(path).parent().expect("it is absolute"));
        self.entry(path.trim_start_matches('/'), 0o100_755, contents);
    }

    fn copy(&mut self, from: &Path, to: &str) {
        let contents = std::fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        self.file(to, &contents);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// The first file system of a machine with this kernel.
fn first_file_system(kernel: &Kernel) -> Vec<u8> {
    let mut archive = Archive::default();
    ["/dev", "/proc", "/sys"].iter().for_each(|directory| archive.directory(Path::new(directory)));
    archive.copy(Path::new("/bin/busybox"), "/bin/busybox");
    // Nothing, of one that is linked statically.
    let libraries = run(Command::new("ldd").arg("/bin/busybox")).stdout;
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        archive.copy(Path::new(library), library);
    }
    let mut order = String::new();
    for module in &kernel.modules {
        let name = module.file_name().and_then(|name| name.to_str()).expect("modules have names");
        archive.copy(module, &format!("/modules/{name}"));
        order += &format!("{name}\n");
    }
    archive.file("/modules/order", order.as_bytes());
    archive.file("/init", INIT.as_bytes());
    archive.file("/lease", LEASE.as_bytes());
    archive.file("/echo", ECHO.as_bytes());
    archive.finish()
}

/// The machine, and the libvirt that it runs under. It ends when it is dropped.
pub struct Guest {
    directory: PathBuf,
    name: String,
    libvirtd: Program,
}

impl Guest {
    /// Starts one, whose network device has this MAC address and connects to this socket.
    ///
    /// # Panics
    /// If libvirt does not start it.
    #[must_use]
    pub fn start(bench: &mut Bench, namespace: &str, socket: &Path, mac: &str) -> Self {
        let directory = bench.directory("libvirt");
        let own = directory.display().to_string();
        let kernel = Kernel::find();
        let files = directory.join("first");
        std::fs::write(&files, first_file_system(&kernel)).expect("the directory is ours");
        let script = directory.join("libvirtd.sh");
        std::fs::write(&script, LIBVIRTD.replace("OWN", &own)).expect("the directory is ours");
        let libvirtd = bench.start(namespace, &format!("sh {}", script.display()));
        let name = format!("weft-{}", std::process::id());
        let guest = Self { directory, name, libvirtd };
        eventually("libvirt's first answer", Duration::from_secs(20), || {
            (guest.virsh("list").code == Some(0)).then_some(())
        });
        let domain = guest.directory.join("domain.xml");
        // QEMU 7.2 crashes with vhost-user and MSI-X when it emulates: no vectors, hence the command line.
        let text = format!(
            "<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>192</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{files}</initrd>
    <cmdline>console=ttyS0 no_timer_check quiet</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <serial type='file'><source path='{own}/console'/></serial>
    <memballoon model='none'/>
    <controller type='usb' model='none'/>
    <interface type='vhostuser'>
      <mac address='{mac}'/>
      <source type='unix' path='{socket}' mode='client'><reconnect enabled='yes' timeout='1'/></source>
      <model type='virtio'/>
    </interface>
  </devices>
  <commandline xmlns='http://libvirt.org/schemas/domain/qemu/1.0'>
    <arg value='-global'/><arg value='virtio-net-pci.vectors=0'/>
  </commandline>
</domain>
",
            name = guest.name,
            kernel = kernel.file.display(),
            files = files.display(),
            socket = socket.display(),
        );
        std::fs::write(&domain, text).expect("the directory is ours");
        let _started = guest.virsh(&format!("create {}", domain.display())).success();
        guest
    }

    /// What it has said on its console.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.directory.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn virsh(&self, line: &str) -> Outcome {
        let mut command = Command::new("nsenter");
        let libvirtd = self.libvirtd.id().to_string();
        command.args(["--target", &libvirtd, "--mount", "virsh", "--connect", "qemu:///system"]);
        run(command.args(line.split(' ')))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _gone = self.virsh(&format!("destroy {}", self.name));
    }
}
