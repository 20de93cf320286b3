//! What a brain's sandbox holds, and what it does not.

use std::fs;
use std::path::Path;

use handsd::api::proto::BashRequest;

use crate::lab::{CREDENTIAL, Lab};
use crate::support::Step::{Hang, Say};
use crate::{an_agent_too, each_runtime};

each_runtime![the_credential_is_with_the_gateway_only, the_brain_has_no_network_no_programs_and_is_not_root];

an_agent_too![the_credential_is_with_the_gateway_only, the_brain_has_no_network_no_programs_and_is_not_root];

/// Files below a directory that hold a word.
fn holding(directory: &Path, word: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() && entry.metadata().is_ok_and(|it| it.len() < 64 << 20) {
                let bytes = fs::read(entry.path()).unwrap_or_default();
                if bytes.windows(word.len()).any(|window| window == word) {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

async fn the_credential_is_with_the_gateway_only(runtime: &str) {
    let Some(lab) = Lab::start(runtime, [Say("one"), Hang]).await else { return };
    let session = lab.session("hello").await;
    session.turns(1).await;
    session.send("again").await;
    lab.model.until_asked(2).await;
    let brains = lab.brain_processes();
    assert!(!brains.is_empty(), "the brain runs");
    for pid in brains {
        for file in ["environ", "cmdline"] {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).expect("root reads all");
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert!(!text.contains(CREDENTIAL), "{file}: {text}");
        }
    }
    assert_eq!(holding(&lab.daemon.state(), CREDENTIAL.as_bytes()), Vec::<String>::new());
    assert!(!lab.daemon.log().contains(CREDENTIAL), "the log tells it");
    let events = format!("{:?}", session.events().await);
    assert!(!events.contains(CREDENTIAL), "{events}");
    lab.model.release();
    session.turns(2).await;
}

async fn the_brain_has_no_network_no_programs_and_is_not_root(runtime: &str) {
    let Some(lab) = Lab::configured(runtime, [Say("one"), Hang], "[network]\ndefault = 'proxy'\n").await else {
        return;
    };
    let session = lab.session("hello").await;
    session.turns(1).await;
    session.send("again").await;
    lab.model.until_asked(2).await;
    for pid in lab.brain_processes() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("it has one");
        let uid: u32 = uid.split_whitespace().next().and_then(|uid| uid.parse().ok()).expect("a number");
        assert_eq!(uid % 65_536, 1000, "{uid}");
        let devices = fs::read_to_string(format!("/proc/{pid}/net/dev")).expect("it has a network");
        assert_eq!(devices.lines().filter(|line| line.contains(':')).count(), 1, "{devices}");
        assert!(
            !Path::new(&format!("/proc/{pid}/root/bin")).exists()
                && !Path::new(&format!("/proc/{pid}/root/usr")).exists()
        );
        let tcp = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("it has sockets");
        let listening = tcp.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A"));
        assert_eq!(listening.count(), 1, "its only door is the gateway: {tcp}");
    }
    let request = BashRequest {
        sandbox_id: session.get().await.brain_sandbox_id,
        command: Some("true".to_owned()),
        ..Default::default()
    };
    let refused = lab.daemon.hands().bash(request).await;
    assert!(refused.is_err(), "it has a shell");
    lab.model.release();
    session.turns(2).await;
}
