//! The virtual machine: QEMU with software emulation, Debian's kernel, one disk that is written over
//! the image, one network card, and two folders of the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::guest::{Guest, Output};
use crate::checkout::repository;
use crate::process::{Process, spawn, until};

/// What its firmware shows as the serial number, to root alone.
pub const SERIAL: &str = "PICKET-0042";

const QEMU: &str = "qemu-system-x86_64";
/// From the start of QEMU to the guest agent's answer, on a busy host.
const BOOT: Duration = Duration::from_secs(180);
/// A command of the tests that waits for nothing.
const COMMAND: Duration = Duration::from_secs(120);
const SHUT_DOWN: Duration = Duration::from_secs(120);

/// What a boot finds.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Whether the network cable is plugged in.
    pub cable: bool,
    /// What the battery clock says, as QEMU's `-rtc base=` takes it: `utc`, or a date.
    pub battery_clock: String,
}

impl Default for Boot {
    fn default() -> Self {
        Self { cable: true, battery_clock: "utc".to_owned() }
    }
}

/// How it is emulated.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Emulation {
    /// Makes every limit so many times as long, on a host that has other work.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub patience: u32,
}

/// A virtual machine with a disk of its own. Dropped, it is cut from power.
pub struct Machine {
    dir: PathBuf,
    image: PathBuf,
    emulation: Emulation,
    running: Option<(Process, Guest)>,
}

impl Machine {
    /// A machine with a new disk in `dir`.
    pub fn new(dir: &Path, emulation: Emulation) -> Result<Self> {
        let image = image()?;
        fs::create_dir_all(dir.join("share"))?;
        let dir = fs::canonicalize(dir)?;
        let disk = image.join("disk.ext4");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([disk.as_path(), &dir.join("disk.qcow2")])
            .status()
            .context("start qemu-img (Debian's package qemu-utils)")?;
        ensure!(made.success(), "qemu-img ended with {made}");
        Ok(Self { dir, image, emulation, running: None })
    }

    /// How long to wait for what should take so long.
    pub fn limit(&self, limit: Duration) -> Duration {
        limit * self.emulation.patience
    }

    /// The folder of the host that the machine sees as `/share`, and may write to.
    pub fn share(&self) -> PathBuf {
        self.dir.join("share")
    }

    /// What the kernel and systemd said since the machine was made.
    pub fn console(&self) -> String {
        fs::read_to_string(self.dir.join("console.log")).unwrap_or_default()
    }

    /// Powers it on, and waits until it runs commands.
    pub async fn boot(&mut self, boot: &Boot) -> Result<()> {
        ensure!(self.running.is_none(), "the virtual machine runs already");
        for socket in ["agent.sock", "control.sock"] {
            match fs::remove_file(self.dir.join(socket)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context(socket);
                }
                _ => {}
            }
        }
        let log = self.dir.join("qemu.log");
        let mut process = spawn("QEMU", Path::new(QEMU), self.arguments(boot), &log)?;
        if !boot.cable {
            self.control(&mut process, "set_link", json!({ "name": "card", "up": false })).await?;
        }
        self.control(&mut process, "cont", json!({})).await?;
        let socket = self.dir.join("agent.sock");
        let guest = Guest::connect(&mut process, &socket, self.limit(BOOT)).await;
        let guest = guest.with_context(|| {
            let console = self.console();
            let lines: Vec<_> = console.lines().collect();
            format!("console:\n{}", lines[lines.len().saturating_sub(25)..].join("\n"))
        })?;
        self.running = Some((process, guest));
        // Not in fstab: systemd mounts before it knows that the driver of these folders is there.
        self.run(
            "modprobe --all 9p 9pnet_virtio && mkdir -p /share /checkout \
            && mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /share \
            && mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro checkout /checkout",
        )
        .await
        .map(drop)
    }

    fn arguments(&self, boot: &Boot) -> Vec<String> {
        let path = |path: PathBuf| path.display().to_string().replace(',', ",,");
        let own = |name: &str| path(self.dir.join(name));
        let folder = |tag: &str, folder: PathBuf| {
            let folder = path(folder);
            format!("local,path={folder},mount_tag={tag},security_model=none,multidevs=remap")
        };
        let kernel = "root=/dev/vda rw console=ttyS0 loglevel=4 systemd.show_status=no \
            mitigations=off net.ifnames=0";
        let pairs = [
            ("-display", "none".to_owned()),
            ("-machine", "q35".to_owned()),
            ("-accel", "tcg,thread=multi".to_owned()),
            ("-cpu", "max".to_owned()),
            ("-smp", "2".to_owned()),
            ("-m", "1024".to_owned()),
            ("-kernel", self.image.join("vmlinuz").display().to_string()),
            ("-initrd", self.image.join("initrd").display().to_string()),
            ("-append", kernel.to_owned()),
            ("-drive", format!("file={},if=virtio,format=qcow2", own("disk.qcow2"))),
            ("-smbios", format!("type=1,serial={SERIAL}")),
            ("-rtc", format!("base={}", boot.battery_clock)),
            ("-netdev", "user,id=net".to_owned()),
            ("-device", "virtio-net-pci,netdev=net,id=card".to_owned()),
            ("-device", "virtio-rng-pci".to_owned()),
            ("-chardev", format!("file,id=console,path={},append=on", own("console.log"))),
            ("-serial", "chardev:console".to_owned()),
            ("-device", "virtio-serial".to_owned()),
            ("-chardev", format!("socket,id=agent,path={},server=on,wait=off", own("agent.sock"))),
            ("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0".to_owned()),
            ("-qmp", format!("unix:{},server=on,wait=off", own("control.sock"))),
            ("-virtfs", folder("share", self.share())),
            ("-virtfs", format!("{},readonly=on", folder("checkout", repository()))),
        ];
        // Stopped at first, so that the cable can be pulled before anything runs.
        let flags = ["-S", "-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned);
        let pairs = pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
        flags.into_iter().chain(pairs).collect()
    }

    /// Runs a shell script as root, whatever it ends with.
    pub async fn try_run(&mut self, script: &str, limit: Duration) -> Result<Output> {
        let (process, guest) = self.running.as_mut().context("the virtual machine is off")?;
        process.expect_running()?;
        guest.run(script, limit).await
    }

    /// Runs a shell script as root that must end well; its standard output.
    pub async fn run(&mut self, script: &str) -> Result<String> {
        let Output { code, out, err } = self.try_run(script, self.limit(COMMAND)).await?;
        ensure!(code == 0, "{script:?} ended with {code}:\n{out}{err}");
        Ok(out)
    }

    /// Pulls the network cable out, or plugs it in.
    pub async fn cable(&mut self, plugged: bool) -> Result<()> {
        let (mut process, guest) = self.running.take().context("the virtual machine is off")?;
        let link = json!({ "name": "card", "up": plugged });
        let done = self.control(&mut process, "set_link", link).await;
        self.running = Some((process, guest));
        done
    }

    /// Power is cut: what the machine's kernel had not written yet is gone.
    pub fn power_cut(&mut self) -> Result<()> {
        let (mut process, _) = self.running.take().context("the virtual machine is off")?;
        process.kill()
    }

    /// Ends it as a person would who has the time.
    pub async fn shut_down(&mut self) -> Result<()> {
        let (mut process, _guest) = self.running.take().context("the virtual machine is off")?;
        self.control(&mut process, "system_powerdown", json!({})).await?;
        let status = process.ended(self.limit(SHUT_DOWN)).await?;
        ensure!(status.success(), "qemu ended with {status}:\n{}", process.log_tail());
        Ok(())
    }

    /// One command to QEMU itself.
    async fn control(&self, process: &mut Process, command: &str, arguments: Value) -> Result<()> {
        let socket = self.dir.join("control.sock");
        let stream = until("QEMU's control port", BOOT, async || {
            process.expect_running()?;
            Ok(UnixStream::connect(&socket).await.map_err(|error| error.to_string()))
        })
        .await?;
        let mut connection = BufReader::new(stream);
        for request in [
            json!({ "execute": "qmp_capabilities" }),
            json!({ "execute": command, "arguments": arguments }),
        ] {
            connection.write_all(format!("{request}\n").as_bytes()).await?;
            answer(&mut connection).await.with_context(|| format!("QEMU, {command}"))?;
        }
        Ok(())
    }
}

/// The next answer; greeting and events are read over.
async fn answer(connection: &mut BufReader<UnixStream>) -> Result<()> {
    loop {
        let mut line = String::new();
        ensure!(connection.read_line(&mut line).await? > 0, "it has ended");
        let message: Value = serde_json::from_str(&line)?;
        if let Some(error) = message.get("error") {
            bail!("it refused: {error}");
        }
        if message.get("return").is_some() {
            return Ok(());
        }
    }
}

/// The image's folder, made if it is not there.
fn image() -> Result<PathBuf> {
    let script = repository().join("tests/device/image.sh");
    let output = Command::new(&script)
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", script.display()))?;
    ensure!(output.status.success(), "{} ended with {}", script.display(), output.status);
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
