//! Published npm clients, unmodified and in strict TypeScript, against the real daemon.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use support::http::Http;
use tokio::process::Command;
use tokio::sync::OnceCell;

mod support;

/// The client wants a global WebSocket, which Node 20 has behind this flag and later versions have anyway.
const WEBSOCKET: &str = "--experimental-websocket";

/// Where the compiled tests are; `None` if this machine cannot make them, which it says.
async fn build() -> Option<&'static Path> {
    static BUILD: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    BUILD.get_or_init(make).await.as_deref()
}

async fn make() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/npm");
    for (program, arguments) in [("npm", ["--version"].as_slice()), ("node", &[WEBSOCKET, "--version"])] {
        let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        if !status.is_ok_and(|status| status.success()) {
            println!("skipped: needs npm and Node 20");
            return None;
        }
    }
    let install = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&source).output().await;
    let install = install.expect("npm is there");
    if !install.status.success() {
        println!("skipped: npm cannot install the client: {}", String::from_utf8_lossy(&install.stderr));
        return None;
    }
    let tsc = Command::new("npm").args(["run", "--silent", "build"]).current_dir(&source).output().await;
    let tsc = tsc.expect("npm is there");
    assert!(tsc.status.success(), "{}", String::from_utf8_lossy(&tsc.stdout));
    Some(source.join("build"))
}

/// Runs a compiled test against the node, and prints what it says.
async fn run(http: &Http, script: &Path, env: &[(&str, &str)]) {
    let mut node = Command::new("node");
    node.arg(WEBSOCKET).arg(script).kill_on_drop(true);
    node.env("HANDSD_URL", format!("http://{}", http.address)).env("HANDSD_API_KEY", &http.key);
    node.envs(env.iter().copied());
    let output = node.output().await.expect("node is there");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_class_works_end_to_end() {
    let Some(build) = build().await else { return };
    let Some(http) = Http::start().await else { return };
    run(&http, &build.join("sandbox.js"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_sessions_work_end_to_end() {
    let Some(build) = build().await else { return };
    let Some(http) = Http::start().await else { return };
    run(&http, &build.join("sessions.js"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_sent_signed_retried_and_kept_apart() {
    let Some(build) = build().await else { return };
    let config = "[http]\nprivate_webhooks = true\nwebhook_retry = '20ms'";
    let Some(http) = Http::configured(config).await else { return };
    run(&http, &build.join("webhooks.js"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_client_of_mcp_uses_the_tools_of_sandboxes_and_sessions() {
    let Some(build) = build().await else { return };
    let Some(http) = Http::start().await else { return };
    run(&http, &build.join("mcp.js"), &[]).await;
}

/// Debian's name of the browser, and that of others.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

#[tokio::test(flavor = "multi_thread")]
async fn the_page_does_what_an_operator_needs() {
    let Some(build) = build().await else { return };
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let programs = std::env::split_paths(&paths).flat_map(|path| BROWSERS.map(|name| path.join(name)));
    let Some(browser) = programs.into_iter().find(|program| program.is_file()) else {
        println!("skipped: needs Chromium");
        return;
    };
    let Some(http) = Http::start().await else { return };
    run(&http, &build.join("page.js"), &[("CHROMIUM", browser.to_str().expect("a plain path"))]).await;
}
