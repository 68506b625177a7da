//! What the device must show, in this order: each claim goes on where the one before left it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::machine::{Boot, SERIAL};
use super::site::{CAMERA, Service, Site, UNIT, next_version};
use crate::checkout::repository;
use crate::oracle::{Account, Findings};
use crate::process::until_every;

/// From power on to the first observation in Kafka.
const FIRST_OBSERVATION: Duration = Duration::from_secs(90);
/// For a service that ended to be active again.
const RESTARTED: Duration = Duration::from_secs(90);
/// The unit's WatchdogSec, what the agent lets pass before it calls a stage stuck, and the restart.
const WATCHDOG: Duration = Duration::from_secs(60 + 15 + 90);
/// Longer than the unit's WatchdogSec and the agent's own patience: what would starve it has by then.
const STARVED: Duration = Duration::from_secs(60 + 15 + 15);
const PLUGGED: Duration = Duration::from_secs(90);
/// For the agent to let go of a camera that was pulled, by the device's own clock.
const LET_GO: Duration = Duration::from_secs(2);
/// For it to have frames of one that was plugged back.
const USED_AGAIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What the reload brings.
const SECOND_CAMERA: &str = "yard";
/// Highest exposure that systemd may find.
const EXPOSURE: f64 = 1.6;

/// Runs one claim, then asks the books. A claim that does not hold does not keep the others from being
/// tried: a run takes minutes.
macro_rules! claims {
    ($site:expr, $package:expr, $failed:expr, [$($claim:ident),* $(,)?]) => {$(
        let start = Instant::now();
        println!("{} ...", stringify!($claim));
        let held = match $claim($site, $package).await {
            Ok(()) => $site.books_balance().await,
            Err(error) => Err(error),
        };
        let seconds = start.elapsed().as_secs();
        match held {
            Ok(findings) => {
                println!("{} ok ({seconds} s; {})", stringify!($claim), summary(&findings));
            }
            Err(error) => {
                println!("{} FAILED ({seconds} s): {error:#}", stringify!($claim));
                println!("{}", $site.log_tail().await);
                $failed.push(stringify!($claim));
            }
        }
    )*};
}

fn summary(findings: &Findings) -> String {
    let sum = |count: fn(&Account) -> usize| findings.accounts.values().map(count).sum::<usize>();
    format!(
        "books balance: {} observations stored, {} frames still, {} dropped with a reason",
        sum(|account| account.stored.len()),
        sum(|account| account.skipped.len()),
        sum(|account| account.dropped.len()),
    )
}

/// All of them; the names of those that do not hold.
pub async fn show(site: &mut Site, package: &Path) -> Vec<&'static str> {
    let mut failed = Vec::new();
    claims!(
        site,
        package,
        failed,
        [
            installed_by_apt_it_waits_for_its_config_and_then_for_a_camera,
            the_running_unit_is_the_hardened_one,
            ninety_seconds_after_power_on_its_observations_are_in_kafka,
            the_board_is_known_by_the_serial_number_that_its_firmware_shows_to_root_alone,
            a_camera_that_is_unplugged_and_plugged_back_is_used_again,
            a_reload_brings_a_camera_and_takes_it_away_and_the_other_goes_on,
            a_killed_agent_is_started_again,
            an_agent_that_somebody_told_to_end_is_started_again,
            a_stopped_detector_thread_makes_the_watchdog_start_the_agent_again,
            a_broker_outage_never_starves_the_watchdog_and_an_upgrade_keeps_the_backlog,
            a_power_cut_loses_nothing_that_was_committed,
            with_no_network_name_or_clock_it_captures_and_spools_and_says_so,
        ]
    );
    failed
}

/// The package comes without a config, so nothing starts; with one, the service starts before there
/// is any camera, and uses the one that is plugged in later.
async fn installed_by_apt_it_waits_for_its_config_and_then_for_a_camera(
    site: &mut Site,
    package: &Path,
) -> Result<()> {
    site.machine.boot(&Boot::default()).await?;
    site.name_broker(true).await?;
    fs::copy(package, site.machine.share().join("agent.deb"))?;
    let said = site.machine.run("apt-get install --yes /share/agent.deb 2>&1").await?;
    ensure!(said.contains("not started"), "apt did not say that the config is missing:\n{said}");
    site.write_identity_and_config().await?;
    let install = "d=/var/lib/picket-edge-agent/identity; u=picket-edge-agent
        install --directory --owner=$u --group=$u --mode=0700 $d &&
        install --owner=$u --group=$u --mode=0600 /share/ca.crt /share/device.crt /share/device.key $d &&
        install --owner=root --group=$u --mode=0640 /share/edge-agent.toml /etc/picket/ &&
        test ! -e /dev/video0";
    site.machine.run(install).await?;
    site.machine.run(&format!("systemctl enable --now --no-block {UNIT}")).await?;
    site.said(&format!("camera {CAMERA}: "), site.limit(RESTARTED)).await?;
    let before = site.service().await?;
    ensure!(before.state == "activating", "it is ready without a camera: {before:?}");

    site.machine.run("modprobe vivid && echo vivid > /etc/modules-load.d/camera.conf").await?;
    let active = |s: &Service| s.state == "active";
    let after = site.service_until("the service", site.limit(RESTARTED), active).await?;
    site.said("frames flow from", LOOK_EVERY).await?;
    site.frames_after((0, 5), site.limit(PLUGGED)).await?;
    ensure!(
        (before.pid, before.restarts) == (after.pid, after.restarts),
        "the camera made it start again: {before:?}, {after:?}"
    );
    Ok(())
}

/// What systemd finds of the unit as it runs, and that it is the unit of this checkout.
async fn the_running_unit_is_the_hardened_one(site: &mut Site, _: &Path) -> Result<()> {
    let installed = site.machine.run(&format!("systemctl cat {UNIT}")).await?;
    let ours = fs::read_to_string(repository().join("systemd/edge-agent.service"))?;
    ensure!(installed.contains(ours.trim()), "the installed unit is another one:\n{installed}");
    let said = site.machine.run(&format!("systemd-analyze security {UNIT} --no-pager")).await?;
    let figure = said.split("Overall exposure level for").nth(1);
    let figure = figure.and_then(|rest| rest.split_whitespace().nth(1));
    let figure: f64 = figure.and_then(|f| f.parse().ok()).context(said)?;
    println!("  exposure {figure}");
    ensure!(figure <= EXPOSURE, "exposure {figure}");
    site.frames_flow().await.map(drop)
}

async fn ninety_seconds_after_power_on_its_observations_are_in_kafka(
    site: &mut Site,
    _: &Path,
) -> Result<()> {
    let (before, _) = site.newest().await?;
    site.machine.shut_down().await?;
    let power_on = Instant::now();
    site.machine.boot(&Boot::default()).await?;
    println!("  booted after {:.0} s", power_on.elapsed().as_secs_f64());
    let left = site.limit(FIRST_OBSERVATION).saturating_sub(power_on.elapsed());
    until_every("an observation of this boot in Kafka", left, LOOK_EVERY, async || {
        let epochs = site.epochs_in_kafka()?;
        let new = epochs.keys().any(|epoch| *epoch > before);
        Ok(if new { Ok(()) } else { Err(format!("observations by epoch: {epochs:?}")) })
    })
    .await?;
    println!("  first observation after {:.0} s", power_on.elapsed().as_secs_f64());
    Ok(())
}

/// Taken from its driver, as a cable pulled from a USB port does; then the driver itself goes, which
/// it can only when the agent has let go of the camera.
/// By the running service, which was just powered on, and by a command of its user.
async fn the_board_is_known_by_the_serial_number_that_its_firmware_shows_to_root_alone(
    site: &mut Site,
    _: &Path,
) -> Result<()> {
    let bound = site.machine.run(&format!("cat /var/lib/{UNIT}/identity.json")).await?;
    let serial = SERIAL.to_ascii_lowercase();
    ensure!(bound.contains(&format!("{serial:?}")), "the service is bound to {bound}");
    let file = "/sys/class/dmi/id/product_serial";
    let mode = site.machine.run(&format!("stat --dereference --format='%a %U %G' {file}")).await?;
    ensure!(mode.trim() == format!("440 root {UNIT}"), "{file} is {mode}");
    let seen = site.machine.run(&format!("runuser -u {UNIT} -- cat {file}")).await?;
    ensure!(seen.trim() == SERIAL, "its user reads {seen}");
    Ok(())
}

async fn a_camera_that_is_unplugged_and_plugged_back_is_used_again(
    site: &mut Site,
    _: &Path,
) -> Result<()> {
    let before = site.service().await?;
    site.frames_flow().await?;
    let held = format!("ls -l /proc/{}/fd | grep -q /dev/video", before.pid);
    site.machine.run(&held).await.context("the agent has no camera open")?;
    let pull = "echo vivid.0 > /sys/bus/platform/drivers/vivid/unbind";
    let let_go = timed(site, pull, &format!("! {held}")).await?;
    println!("  let go of after {:.1} s", let_go.as_secs_f64());
    ensure!(let_go <= site.limit(LET_GO), "the camera was held for {let_go:?}");
    site.machine.run("modprobe --remove vivid && test ! -e /dev/video0").await?;

    let newest = site.newest().await?;
    let flows =
        format!("journalctl --unit={UNIT} --boot --output=cat | grep -c 'frames flow from'");
    let times = site.machine.run(&flows).await?;
    let flows_again = format!("test \"$({flows})\" -gt {}", times.trim());
    let used = timed(site, "modprobe vivid", &flows_again).await?;
    println!("  used again after {:.1} s", used.as_secs_f64());
    ensure!(used <= site.limit(USED_AGAIN), "it was used again only after {used:?}");
    site.frames_after((newest.0, newest.1 + 5), site.limit(PLUGGED)).await?;
    let after = site.service().await?;
    ensure!(before == after, "the agent did not stay up: {before:?}, {after:?}");
    Ok(())
}

/// How long after a command something holds, looked at on the device: a question from outside takes
/// longer than what is to be measured.
async fn timed(site: &mut Site, command: &str, holds: &str) -> Result<Duration> {
    let limit = site.limit(PLUGGED).as_secs();
    let script = format!(
        "{command} && start=$(date +%s%3N) && end=$((start + {limit}000)) &&
        until {holds}; do test $(date +%s%3N) -lt $end || exit 1; sleep 0.1; done;
        echo $(($(date +%s%3N) - start))"
    );
    let done = site.machine.try_run(&script, site.limit(PLUGGED * 2)).await?;
    ensure!(done.code == 0, "after {command:?} this did not come true in {limit} s: {holds}");
    Ok(Duration::from_millis(done.out.trim().parse().context(done.out.clone())?))
}

/// A drop-in brings a second camera and takes it away again; the first goes on in its epoch.
async fn a_reload_brings_a_camera_and_takes_it_away_and_the_other_goes_on(
    site: &mut Site,
    _: &Path,
) -> Result<()> {
    let before = site.service().await?;
    let newest = site.frames_flow().await?;
    let camera = format!(
        "[[camera]]\nname = \"{SECOND_CAMERA}\"\nsampling.fps = 1\npublish.policy = \"all\"\n\
        source.test-pattern = {{ width_px = 160, height_px = 90, fps = 2 }}\n"
    );
    fs::write(site.machine.share().join("second.toml"), camera)?;
    let folder = "/etc/picket/edge-agent.conf.d";
    site.machine.run(&format!("install --mode=0644 /share/second.toml {folder}/")).await?;
    site.machine.run(&format!("systemctl reload {UNIT}")).await?;
    site.first_of(SECOND_CAMERA, site.limit(PLUGGED)).await?;
    let meanwhile = site.frames_flow().await?;
    ensure!(meanwhile.0 == newest.0, "the first camera began anew: {newest:?}, {meanwhile:?}");

    site.machine.run(&format!("rm {folder}/second.toml && systemctl reload {UNIT}")).await?;
    site.said(&format!("camera closed camera={SECOND_CAMERA}"), site.limit(PLUGGED)).await?;
    let last = site.frames_flow().await?;
    ensure!(last.0 == newest.0, "the first camera began anew: {newest:?}, {last:?}");
    let after = site.service().await?;
    ensure!(before == after, "the reload made it start again: {before:?}, {after:?}");
    Ok(())
}

async fn a_killed_agent_is_started_again(site: &mut Site, _: &Path) -> Result<()> {
    let before = site.service().await?;
    site.machine.run(&format!("kill -KILL {}", before.pid)).await?;
    started_again(site, before.pid, site.limit(RESTARTED)).await
}

/// Not by systemd: for the agent an orderly end, after which there is more to do.
async fn an_agent_that_somebody_told_to_end_is_started_again(
    site: &mut Site,
    _: &Path,
) -> Result<()> {
    let before = site.service().await?;
    site.machine.run(&format!("kill -TERM {}", before.pid)).await?;
    started_again(site, before.pid, site.limit(RESTARTED)).await
}

/// The thread that all cameras need is held by a debugger's means; all others go on.
async fn a_stopped_detector_thread_makes_the_watchdog_start_the_agent_again(
    site: &mut Site,
    _: &Path,
) -> Result<()> {
    let before = site.service().await?;
    // ptrace(PTRACE_SEIZE), then ptrace(PTRACE_INTERRUPT), by a process that lives until it is stopped.
    // It waits for the thread (__WALL) as a debugger does: else what is left of one that was killed
    // would keep its process from ending.
    let hold = format!(
        "thread=$(grep -lx detect /proc/{}/task/*/comm | cut -d/ -f5) && test -n \"$thread\" &&
        systemd-run --quiet --unit=hold perl -e '
            syscall(101, 0x4206, 0 + $ARGV[0], 0, 0) == 0 or die;
            syscall(101, 0x4207, 0 + $ARGV[0], 0, 0) == 0 or die;
            1 while waitpid(-1, 0x40000000) > 0;
            sleep' $thread",
        before.pid
    );
    site.machine.run(&hold).await?;
    let again = started_again(site, before.pid, site.limit(WATCHDOG)).await;
    site.machine.run("systemctl stop hold").await?;
    again?;
    site.said("Watchdog timeout", LOOK_EVERY).await
}

async fn started_again(site: &mut Site, former: u32, limit: Duration) -> Result<()> {
    let again = |s: &Service| s.state == "active" && s.pid != former;
    site.service_until("systemd to start the agent again", limit, again).await?;
    site.frames_flow().await.map(drop)
}

async fn a_broker_outage_never_starves_the_watchdog_and_an_upgrade_keeps_the_backlog(
    site: &mut Site,
    package: &Path,
) -> Result<()> {
    let before = site.service().await?;
    site.fleet.stack.kill_kafka()?;
    let upgraded = upgraded_in_an_outage(site, package, &before).await;
    site.fleet.stack.start_kafka().await?;
    upgraded?;
    site.frames_flow().await.map(drop)
}

async fn upgraded_in_an_outage(site: &mut Site, package: &Path, before: &Service) -> Result<()> {
    let outage = Instant::now();
    until_every("the watchdog's time to pass", STARVED * 2, LOOK_EVERY, async || {
        let service = site.service().await?;
        ensure!(service == *before, "the outage made it start again: {before:?}, {service:?}");
        let passed = outage.elapsed();
        Ok(if passed > STARVED { Ok(()) } else { Err(format!("{} s", passed.as_secs())) })
    })
    .await?;
    let backlog = site.backlog(50, STARVED).await?;
    site.accounts_balance().await.context("during the outage")?;

    next_version(package, &site.machine.share().join("next.deb"))?;
    let config = site.machine.run("sha256sum /etc/picket/edge-agent.toml").await?;
    site.machine.run("apt-get install --yes /share/next.deb").await?;
    let after = site
        .service_until("the new version", site.limit(RESTARTED), |s| s.state == "active")
        .await?;
    ensure!(after.pid != before.pid, "the upgrade left the old program running");
    let version = site.machine.run(&format!("dpkg-query --show {UNIT}")).await?;
    ensure!(version.trim().ends_with("+next"), "installed is {version}");
    let kept = site.machine.run("sha256sum /etc/picket/edge-agent.toml").await?;
    ensure!(kept == config, "the upgrade changed the config");
    let spooled = site.spooled().await?;
    ensure!(spooled >= backlog, "of {backlog} records {spooled} outlived the upgrade");
    Ok(())
}

/// With the broker away, so that there is something on the disk to lose.
async fn a_power_cut_loses_nothing_that_was_committed(site: &mut Site, _: &Path) -> Result<()> {
    let newest = site.frames_flow().await?;
    site.fleet.stack.kill_kafka()?;
    let kept = kept_through_a_power_cut(site).await;
    site.fleet.stack.start_kafka().await?;
    kept?;
    site.frames_after((newest.0 + 1, 5), site.limit(FIRST_OBSERVATION)).await.map(drop)
}

async fn kept_through_a_power_cut(site: &mut Site) -> Result<()> {
    site.backlog(30, site.limit(PLUGGED)).await?;
    let before = site.accounts_balance().await?;
    site.machine.power_cut()?;
    site.machine.boot(&Boot::default()).await?;
    let active = |s: &Service| s.state == "active";
    site.service_until("the service", site.limit(FIRST_OBSERVATION), active).await?;
    let after = site.accounts_balance().await?;
    let spooled: usize = before.accounts.values().map(|account| account.spooled.len()).sum();
    ensure!(spooled >= 15, "only {spooled} observations were on the disk when the power went");
    for (epoch, account) in &before.accounts {
        let now = after.accounts.get(epoch).context("an epoch that was there is not")?;
        let lost: Vec<_> = account.spooled.difference(&now.spooled).collect();
        ensure!(lost.is_empty(), "of {epoch} these were committed, and are gone: {lost:?}");
    }
    println!("  {spooled} observations were on the disk, and are");
    Ok(())
}

/// No cable, no name, and a battery clock that is empty; then all of it comes.
async fn with_no_network_name_or_clock_it_captures_and_spools_and_says_so(
    site: &mut Site,
    _: &Path,
) -> Result<()> {
    let (before, _) = site.newest().await?;
    site.name_broker(false).await?;
    // Or systemd would begin where the clock was when the power went.
    site.machine.run("rm -f /var/lib/systemd/timesync/clock").await?;
    site.machine.shut_down().await?;
    let nothing = Boot { cable: false, battery_clock: "1970-01-01T00:00:00".to_owned() };
    site.machine.boot(&nothing).await?;
    let active = |s: &Service| s.state == "active";
    let service = site.service_until("the service", site.limit(RESTARTED), active).await?;
    site.backlog(40, site.limit(PLUGGED)).await?;
    site.said("no time source keeps the clock", LOOK_EVERY).await?;
    site.said("the link is down: what is captured waits in the spool", site.limit(PLUGGED)).await?;

    site.name_broker(true).await?;
    site.machine.cable(true).await?;
    // What a time source does: it steps the clock, and tells the kernel that it keeps it.
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let keep = format!(
        "date --set=@{seconds} && perl -e '
            my $timex = pack(\"Lx4q4l\", 0x14, 0, 0, 0, 0, 0) . \"\\0\" x 256;
            syscall(159, $timex) >= 0 or die'"
    );
    site.machine.run(&keep).await?;
    site.frames_after((before + 1, 5), site.limit(FIRST_OBSERVATION)).await?;
    site.said("a time source keeps the clock", site.limit(PLUGGED)).await?;
    let after = site.service().await?;
    ensure!(service == after, "it started again: {service:?}, {after:?}");
    Ok(())
}
