//! A full disk: a small file system of the test's own. Writes are refused with a clear error, reads
//! go on, and freed space restores the service without a restart.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Cluster, Node, Options, test_directory, wait_until};
use crate::http::{Answer, ask};

/// A small file system, unmounted when this is dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Nothing when this process may not mount; the reason is printed.
    pub fn mount(at: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at)),
            failed => {
                eprintln!("not tested: a file system cannot be mounted here: {failed:?}");
                None
            }
        }
    }

    /// Leaves only so many bytes free.
    fn fill(&self, leave: u64) {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        let ballast = fs::File::options().create(true).append(true).open(self.ballast()).unwrap();
        let mut ballast = std::io::BufWriter::new(ballast);
        let zeros = std::io::Read::take(std::io::repeat(0), free.saturating_sub(leave));
        // When the daemons are faster, it is full a little earlier.
        let _ = std::io::copy(&mut { zeros }, &mut ballast);
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemons may not be gone yet. What is left then is an empty mount point.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn try_put(node: &Node, key: &str, value: &[u8]) -> Answer {
    ask(&node.socket, &format!("PUT /v1/kv/{key}?timeout=1s"), &[], value)
}

fn has_note(status: &Value, code: &str) -> bool {
    status["health"].as_array().unwrap().iter().any(|note| note["code"] == code)
}

fn reads_go_on(cluster: &Cluster, key: &str) {
    for node in &cluster.nodes {
        node.get(&format!("/v1/kv/{key}")).expect(200);
        node.get(&format!("/v1/kv/{key}?consistency=local")).expect(200);
    }
}

fn writes_go_on_again(cluster: &Cluster, key: &str) {
    for (number, node) in cluster.nodes.iter().enumerate() {
        wait_until("writes are taken again", || {
            let answer = try_put(node, &format!("{key}{number}"), b"again");
            matches!(answer.status, 200 | 201).then_some(())
        });
    }
    cluster.until_equal();
}

/// The space falls below the reserve: refused before anything breaks, through every node.
#[test]
fn writes_are_refused_below_the_reserve() {
    let directory = test_directory();
    let Some(disk) = SmallDisk::mount(directory.path().join("d"), "80m") else { return };
    let options = Options {
        data: Some(disk.0.clone()),
        more: "disk: {reserve_bytes: 16MiB}\n".to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::with(&options);
    cluster.nodes[0].put("kept", "x").expect(201);
    disk.fill(12 << 20);
    for node in &cluster.nodes {
        let refused = wait_until("a write is refused", || {
            // Nodes look at their disks in turn: until all have, a write may be under way.
            let answer = try_put(node, "refused", b"x");
            assert!(matches!(answer.status, 200 | 201 | 503 | 504), "{}", answer.text());
            (answer.status == 503).then_some(answer)
        });
        let problem = refused.json();
        let told = (&problem["status"], &problem["code"], &problem["applied"]);
        assert_eq!(told, (&503.into(), &"unavailable".into(), &"no".into()), "{problem:#}");
        assert!(problem["detail"].as_str().unwrap().contains("disk"), "{problem:#}");
        assert!(refused.header("retry-after").is_some());
        wait_until("the status says so", || {
            node.status().filter(|status| has_note(status, "disk_full"))
        });
    }
    reads_go_on(&cluster, "kept");
    disk.free();
    writes_go_on_again(&cluster, "reserve");
}

/// No reserve, and not a byte left: what was acknowledged is there, what was refused is not, and
/// the daemons neither die nor need to be started again.
#[test]
fn a_disk_without_a_byte_left_recovers_by_itself() {
    let directory = test_directory();
    let Some(disk) = SmallDisk::mount(directory.path().join("d"), "80m") else { return };
    let options = Options {
        data: Some(disk.0.clone()),
        more: "disk: {reserve_bytes: 0}\n".to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::with(&options);
    cluster.nodes[0].put("kept", "x").expect(201);
    disk.fill(0);
    let (mut acked, mut refused) = (Vec::new(), Vec::new());
    let value = vec![b'x'; 512 * 1024];
    for number in 0.. {
        assert!(number < 200, "the disk is not full: {acked:?}");
        let key = format!("full{number}");
        let answer = try_put(&cluster.nodes[number % 3], &key, &value);
        match (answer.status, answer.json()["applied"].as_str().unwrap_or_default()) {
            (201, _) => acked.push(key),
            (503, "no") => refused.push(key),
            (504, "maybe") => {}
            other => panic!("{other:?}: {}", answer.text()),
        }
        if refused.len() >= 3 {
            break;
        }
    }
    for node in &cluster.nodes {
        node.get("/v1/kv/kept?consistency=local").expect(200);
    }
    disk.free();
    writes_go_on_again(&cluster, "empty");
    for node in &mut cluster.nodes {
        node.until_ready();
        for key in &acked {
            assert_eq!(node.get(&format!("/v1/kv/{key}")).expect(200).body.len(), value.len());
        }
        for key in &refused {
            node.get(&format!("/v1/kv/{key}")).expect(404);
        }
    }
}
