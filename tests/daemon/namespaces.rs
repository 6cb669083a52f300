//! Five hosts as namespaces of the network on one bridge, each with its own daemon, cut off from
//! the others again and again: whoever held there is stopped before another host's program starts.
//!
//! All programs note what they do on one clock, that of this host. What holds is a command of
//! `quorumctl lock` or `elect` with a descendant of its own, both of which write down that they
//! live every two milliseconds; every second of them ignores SIGTERM. A cut is a link that is taken
//! off the bridge, a link that is down, or frames that are dropped in one direction only.
//!
//! ```text
//! QUORUMD_PARTITIONS=50 cargo test --test daemon namespaces:: -- --nocapture
//! QUORUMD_TEST_SEED=<seed> cargo test --test daemon namespaces::
//! ```
//!
//! Needs to be root and `ip` of iproute2, and says so when it may not; `QUORUMD_REQUIRE_NAMESPACES`
//! makes that a failure.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use quorumd::base::Rng;
use quorumd::pki::Authority;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use crate::harness::{CLUSTER, PATIENCE, Process, TEST_CONFIG, certify, quorumd};
use crate::harness::{test_directory, wait_for, wait_until};
use crate::http::{put, try_ask};
use crate::kill::random;

/// Partitions in an everyday run.
const PARTITIONS: u64 = 6;
const HOSTS: usize = 5;
/// The first ones are voters, the others learners.
const VOTERS: usize = 3;
const TTL: &str = "2s";
/// Within which another holds, on a machine that is busy with other things.
const HANDED_OVER: Duration = Duration::from_secs(120);
/// Where a program that holds writes down that it lives.
const BEATS: &str = "QUORUMD_TEST_BEATS";
/// What is held: the name of a lock, and of an election.
const JOBS: [(&str, &str); 2] = [("lock", "job"), ("elect", "boss")];

/// What holds, when the environment says so: it writes down that it lives until it is killed.
#[test]
fn a_program_that_holds() {
    let Some(path) = std::env::var_os(BEATS) else { return };
    let token = std::env::var("QUORUMD_TOKEN").unwrap();
    let mut file = File::options().create(true).append(true).open(path).unwrap();
    loop {
        // In one write each: two programs share the file.
        file.write_all(format!("{} {token}\n", boottime()).as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn boottime() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

/// How a host is cut off.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Its link leaves the bridge: nothing gets through, and nobody is told.
    Off,
    /// Its link is down, which its kernel sees.
    Down,
    /// Nothing that it sends gets through.
    Mute,
    /// Nothing that is sent to it gets through.
    Deaf,
}

/// The namespaces: one for the bridge, one for each host. They go when this is dropped.
struct Net {
    prefix: String,
    one_way: bool,
}

fn run(program: &str, arguments: &str) -> Output {
    let words: Vec<&str> = arguments.split(' ').collect();
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}"))
}

#[track_caller]
fn ip(arguments: &str) {
    let output = run("ip", arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

impl Net {
    /// Nothing, with the reason, where namespaces cannot be made.
    fn make() -> Result<Self, String> {
        let prefix = format!("qd{}", std::process::id());
        let tried = Command::new("ip").args(["netns", "add", &format!("{prefix}b")]).output();
        let tried = tried.map_err(|error| format!("ip: {error}"))?;
        if !tried.status.success() {
            return Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned());
        }
        let mut net = Self { prefix, one_way: false };
        let bridge = net.bridge();
        ip(&format!("-n {bridge} link add name bridge0 type bridge"));
        ip(&format!("-n {bridge} link set bridge0 up"));
        for host in 0..HOSTS {
            let name = net.of(host);
            ip(&format!("netns add {name}"));
            ip(&format!("-n {bridge} link add p{host} type veth peer name e netns {name}"));
            ip(&format!("-n {bridge} link set p{host} master bridge0 up"));
            ip(&format!("-n {name} addr add 10.77.0.{}/24 dev e", host + 1));
            ip(&format!("-n {name} link set e up"));
            ip(&format!("-n {name} link set lo up"));
        }
        net.one_way = net.nft("add table bridge q")
            && net.nft("add chain bridge q f { type filter hook forward priority 0 ; }");
        Ok(net)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.prefix)
    }

    fn of(&self, host: usize) -> String {
        format!("{}h{host}", self.prefix)
    }

    /// Whether it could be done: not every kernel and host can.
    fn nft(&self, rule: &str) -> bool {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.bridge(), "nft"])
            .args(rule.split(' '))
            .output();
        output.is_ok_and(|output| output.status.success())
    }

    fn cut(&self, host: usize, how: Cut) {
        let bridge = self.bridge();
        match how {
            Cut::Off => ip(&format!("-n {bridge} link set p{host} nomaster")),
            Cut::Down => ip(&format!("-n {bridge} link set p{host} down")),
            Cut::Mute => {
                assert!(self.nft(&format!("add rule bridge q f iifname p{host} drop")));
            }
            Cut::Deaf => {
                assert!(self.nft(&format!("add rule bridge q f oifname p{host} drop")));
            }
        }
    }

    fn heal(&self, host: usize) {
        let bridge = self.bridge();
        ip(&format!("-n {bridge} link set p{host} master bridge0 up"));
        if self.one_way {
            assert!(self.nft("flush chain bridge q f"));
        }
    }

    /// A command within the namespace of a host. The process becomes the program.
    fn within(&self, host: usize, command: &Command) -> Command {
        let mut within = Command::new("ip");
        within.args(["netns", "exec", &self.of(host)]).arg(command.get_program());
        within.args(command.get_args()).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        within
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in 0..HOSTS {
            run("ip", &format!("netns del {}", self.of(host)));
        }
        run("ip", &format!("netns del {}", self.bridge()));
    }
}

/// One host. What campaigns on it goes before its daemon does.
struct Host {
    name: String,
    home: PathBuf,
    socket: PathBuf,
    campaigns: Vec<Process>,
    daemon: Option<Process>,
}

impl Host {
    fn beats(&self, job: &str) -> PathBuf {
        self.home.join(format!("{job}.beats"))
    }

    fn is_ready(&self) -> bool {
        try_ask(&self.socket, "GET /readyz", &[], b"").is_ok_and(|answer| answer.status == 200)
    }

    fn until_ready(&self) {
        wait_until("a daemon is ready", || self.is_ready().then_some(()));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["log", "job.log", "boss.log"] {
                let text = fs::read_to_string(self.home.join(log)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(30)..].join("\n");
                eprintln!("---- {log} of {} ----\n{last}", self.name);
            }
        }
        for campaign in &self.campaigns {
            let group = i32::try_from(campaign.0.id()).ok().and_then(Pid::from_raw);
            // It fails only for a group that has ended.
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        }
        self.campaigns.clear();
        self.daemon.take();
    }
}

/// The hosts, in the order in which they are to go: before the namespaces and the files.
struct World {
    hosts: Vec<Host>,
    net: Net,
    _directory: TempDir,
}

impl World {
    fn start(net: Net) -> Self {
        let directory = test_directory();
        let authority = Authority::create(CLUSTER).unwrap();
        let mut world = Self { hosts: Vec::new(), net, _directory: directory };
        let voters: String =
            (1..=VOTERS).map(|n| format!("  n{n}: \"10.77.0.{n}:7443\"\n")).collect();
        (0..VOTERS).for_each(|host| world.add(host, &authority, &voters));
        world.hosts.iter().for_each(Host::until_ready);
        for host in VOTERS..HOSTS {
            let learner = format!("  n{0}: \"10.77.0.{0}:7443\"\n", host + 1);
            world.add(host, &authority, &format!("{voters}{learner}"));
            let host = &world.hosts[host];
            wait_until("a newcomer waits to be added", || {
                let status = try_ask(&host.socket, "GET /v1/status", &[], b"").ok()?;
                status.text().contains("waiting_to_be_added").then_some(())
            });
        }
        let learners: Vec<String> = (VOTERS + 1..=HOSTS)
            .map(|n| format!("{{\"name\":\"n{n}\",\"address\":\"10.77.0.{n}:7443\"}}"))
            .collect();
        let wanted =
            format!("{{\"voters\":[\"n1\",\"n2\",\"n3\"],\"learners\":[{}]}}", learners.join(","));
        wait_until("the learners are added", || {
            let answer = put(&world.hosts[0].socket, "/v1/members", &wanted);
            (answer.status == 200 && !answer.text().contains("\"error\"")).then_some(())
        });
        world.hosts.iter().for_each(Host::until_ready);
        world
    }

    fn add(&mut self, host: usize, authority: &Authority, members: &str) {
        let name = format!("n{}", host + 1);
        let home = self._directory.path().join(&name);
        fs::create_dir(&home).unwrap();
        certify(authority, &name, &home, "");
        // Five daemons and what they run, beside other tests: they must not lose their leader for
        // want of a processor.
        let config = TEST_CONFIG.replace("300ms", "1s").replace("60ms", "200ms");
        let text = format!(
            "cluster: {CLUSTER}\nname: {name}\nlisten: \"10.77.0.{}:7443\"\nmembers:\n{members}\
             data_dir: {}\n{config}",
            host + 1,
            home.join("data").display()
        );
        let config = home.join("quorumd.yaml");
        fs::write(&config, text).unwrap();
        let log = File::options().create(true).append(true).open(home.join("log")).unwrap();
        let mut command = quorumd();
        command.arg("run").arg("--config").arg(&config);
        command.args(["--exit-with-parent", &std::process::id().to_string()]);
        let mut within = self.net.within(host, &command);
        let daemon = within.stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Some(Process::spawn(daemon));
        let socket = home.join("s");
        self.hosts.push(Host { name, home, socket, campaigns: Vec::new(), daemon });
    }

    /// Each host campaigns for both jobs, again whenever it has lost.
    fn campaign(&mut self) {
        for host in 0..HOSTS {
            for (command, job) in JOBS {
                let place = &self.hosts[host];
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(AGAIN).arg(env!("CARGO_BIN_EXE_quorumctl"));
                shell.args([command, job, TTL]).arg(std::env::current_exe().unwrap());
                let mut within = self.net.within(host, &shell);
                within.env("QUORUMD_SOCKET", &place.socket).env(BEATS, place.beats(job));
                let log = place.home.join(format!("{job}.log"));
                let log = File::options().create(true).append(true).open(log).unwrap();
                // With a group of its own, to end what it has started too.
                within.stdout(Stdio::null()).stderr(log).process_group(0);
                let process = Process::spawn(&mut within);
                self.hosts[host].campaigns.push(process);
            }
        }
    }

    /// Of a job: the newest token with which a program runs or ran, and on which host.
    fn newest(&self, job: &str) -> Option<(u64, usize)> {
        let last = |host: &Host| last_token(&host.beats(job));
        let all = self.hosts.iter().enumerate();
        all.filter_map(|(at, host)| Some((last(host)?, at))).max()
    }
}

/// Runs `$0 $1 $2` with a program that ignores SIGTERM and one that does not, in turn.
const AGAIN: &str = r#"
program=$4
turn=$$
while :; do
    turn=$((turn + 1))
    held='"$0" "$@" & exec "$0" "$@"'
    [ $((turn % 2)) = 0 ] && held="trap '' TERM; $held"
    "$0" "$1" "$2" --ttl "$3" -- sh -c "$held" "$program" \
        --exact namespaces::a_program_that_holds --nocapture --test-threads 1
    sleep 0.1
done"#;

/// The token in the last whole line of a file.
fn last_token(path: &Path) -> Option<u64> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(200))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let line = String::from_utf8_lossy(&tail);
    let line = line.trim_end_matches(|c| c != '\n').trim_end().rsplit('\n').next()?.to_owned();
    line.split_once(' ')?.1.parse().ok()
}

/// From the first to the last sign of life of what ran with one token, and where.
#[derive(Clone, Copy, Debug)]
struct Held {
    first: u64,
    last: u64,
    host: usize,
}

/// Everything that held a job, by token.
fn held(world: &World, job: &str) -> BTreeMap<u64, Held> {
    let mut all: BTreeMap<u64, Held> = BTreeMap::new();
    for (at, host) in world.hosts.iter().enumerate() {
        let text = fs::read_to_string(host.beats(job)).unwrap_or_default();
        for line in text.lines() {
            let (time, token) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            let (time, token): (u64, u64) = (time.parse().unwrap(), token.parse().unwrap());
            let held = all.entry(token).or_insert(Held { first: time, last: time, host: at });
            assert_eq!(held.host, at, "{job}: token {token} on two hosts");
            held.first = held.first.min(time);
            held.last = held.last.max(time);
        }
    }
    all
}

/// No two that held a job at once, and a greater token for each later one. How long nobody held,
/// from one host to another.
fn gaps(world: &World, job: &str) -> Vec<Duration> {
    let all: Vec<(u64, Held)> = held(world, job).into_iter().collect();
    let mut gaps = Vec::new();
    for pair in all.windows(2) {
        let [(token, one), (later, other)] = pair else { unreachable!("windows of two") };
        assert!(
            one.last < other.first,
            "{job}: {} holds with {token} until {}, {} with {later} from {} on: {} us together",
            world.hosts[one.host].name,
            one.last,
            world.hosts[other.host].name,
            other.first,
            (one.last - other.first) / 1_000
        );
        if one.host != other.host {
            gaps.push(Duration::from_nanos(other.first - one.last));
        }
    }
    gaps.sort();
    gaps
}

fn partitions() -> u64 {
    let given = std::env::var("QUORUMD_PARTITIONS").ok();
    given.map_or(PARTITIONS, |given| given.parse().expect("QUORUMD_PARTITIONS is a number"))
}

#[test]
fn who_is_cut_off_is_stopped_before_another_starts() {
    let net = match Net::make() {
        Ok(net) => net,
        Err(reason) => {
            let required = std::env::var_os("QUORUMD_REQUIRE_NAMESPACES").is_some();
            assert!(!required, "network namespaces cannot be made: {reason}");
            eprintln!("NOT TESTED: network namespaces cannot be made: {reason}");
            return;
        }
    };
    let mut rng = random();
    let begun = Instant::now();
    let mut world = World::start(net);
    world.campaign();
    for (_, job) in JOBS {
        wait_until("a program runs", || world.newest(job));
    }
    let kinds = match world.net.one_way {
        true => &[Cut::Off, Cut::Down, Cut::Mute, Cut::Deaf][..],
        false => &[Cut::Off, Cut::Down],
    };
    eprintln!("{HOSTS} hosts after {:?}, cuts: {kinds:?}", begun.elapsed());
    for round in 0..partitions() {
        wait_for(Duration::from_millis(rng.below(800)), "a random moment");
        partition(&world, &mut rng, round, kinds);
    }
    for (_, job) in JOBS {
        let gaps = gaps(&world, job);
        assert!(!gaps.is_empty(), "{job} was never handed over");
        eprintln!(
            "{job}: {} times from host to host; nobody held for {:?} at least, {:?} at the median, \
             {:?} at most",
            gaps.len(),
            gaps[0],
            gaps[gaps.len() / 2],
            gaps[gaps.len() - 1]
        );
    }
    eprintln!("{} partitions in {:?}", partitions(), begun.elapsed());
}

/// Cuts off the host that holds one of the jobs until others hold what it held, and heals it.
fn partition(world: &World, rng: &mut Rng, round: u64, kinds: &[Cut]) {
    let (_, chosen) = JOBS[rng.below(2) as usize];
    let before: Vec<(&str, (u64, usize))> =
        JOBS.iter().map(|(_, job)| (*job, world.newest(job).expect("it was held"))).collect();
    let (_, (_, away)) = *before.iter().find(|(job, _)| *job == chosen).expect("it is one of them");
    let how = kinds[rng.below(kinds.len() as u64) as usize];
    let cut = Instant::now();
    world.net.cut(away, how);
    let mut took = Vec::new();
    for (job, (token, host)) in before {
        if host == away {
            let deadline = cut + HANDED_OVER;
            let next = loop {
                if let Some(next) = world.newest(job).filter(|(newer, _)| *newer > token) {
                    break next;
                }
                assert!(Instant::now() < deadline, "{job} stays with n{} {how:?}", away + 1);
                std::thread::sleep(Duration::from_millis(10));
            };
            took.push(format!("{job} on n{} after {:?}", next.1 + 1, cut.elapsed()));
        }
    }
    world.net.heal(away);
    eprintln!("{round}: n{} {how:?}: {}", away + 1, took.join(", "));
    let healed = Instant::now();
    world.hosts[away].until_ready();
    assert!(healed.elapsed() < PATIENCE);
}
