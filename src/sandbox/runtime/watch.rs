//! Waits for the end of a runtime, and ends it when it hangs.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::state::{EndReason, Ending};
use super::{CHECK_KEY, Health};
use crate::guest::client::ExitStatus;
use crate::hands::{BackgroundPolicy, Command, Deadline, Exited, Hands, Program, Reason, Run, Stdio};
use crate::ids::RunId;
use crate::telemetry::chain;

/// Health commands that fail in a row before a runtime hangs: one may have come at a bad moment.
const FAILURES: u32 = 3;

/// Waits until a runtime has ended. One that hangs is ended, with so long between SIGTERM and SIGKILL.
///
/// To drop it leaves the runtime as it is; another may be made of the same run.
pub async fn watch(hands: Hands, run: Run, health: Option<Health>, grace: Duration) -> Ending {
    let hangs = async {
        match health {
            None => std::future::pending().await,
            Some(Health::Command { command, interval, timeout, start_period }) => {
                sleep(rest_of(start_period, &run)).await;
                unhealthy(&hands, check(&command, timeout), interval).await
            }
            Some(Health::Heartbeat { within, start_period }) => {
                sleep(rest_of(start_period, &run)).await;
                silent(&run, within).await
            }
        }
    };
    let why = tokio::select! {
        biased;
        exited = run.wait_exited() => return Ending::of_run(&exited, SystemTime::now()),
        why = hangs => why,
    };
    match run.cancel(grace).await {
        Ok(Exited { status, reason: Reason::Canceled, .. }) => {
            Ending { reason: EndReason::Hung, status, message: why, at: SystemTime::now() }
        }
        // It has ended by itself meanwhile.
        Ok(exited) => Ending::of_run(&exited, SystemTime::now()),
        Err(_) => Ending::of_run(&run.wait_exited().await, SystemTime::now()),
    }
}

/// How long a runtime is still left alone.
fn rest_of(start_period: Duration, run: &Run) -> Duration {
    let up = run.started().and_then(|started| SystemTime::now().duration_since(started.at).ok());
    start_period.saturating_sub(up.unwrap_or_default())
}

fn check(command: &str, timeout: Duration) -> Command {
    Command {
        program: Program::Shell(command.to_owned()),
        cwd: String::new(),
        env: Default::default(),
        user: None,
        deadline: Deadline::After(timeout),
        stdio: Stdio::Output,
        background: BackgroundPolicy::Kill,
    }
}

/// Waits until the command has failed too often in a row; says how the last time.
async fn unhealthy(hands: &Hands, check: Command, interval: Duration) -> String {
    let mut failures = 0;
    loop {
        sleep(interval).await;
        let why = match fails(hands, check.clone()).await {
            None => {
                failures = 0;
                continue;
            }
            Some(why) => why,
        };
        failures += 1;
        if failures == FAILURES {
            return why;
        }
    }
}

/// Runs the command once; says why it failed, if it did.
async fn fails(hands: &Hands, check: Command) -> Option<String> {
    // No lease: to look after a sandbox is not to use it.
    let key = format!("{CHECK_KEY}{}", RunId::random());
    let run = match hands.start(check, Some(key), None::<()>).await {
        Ok(run) => run,
        Err(error) => return Some(format!("its health command does not start: {}", chain(&error))),
    };
    let exited = run.wait_exited().await;
    hands.discard(&run);
    match (exited.reason, exited.status) {
        (Reason::Exited, Some(ExitStatus::Code(0))) => None,
        (Reason::Exited, Some(ExitStatus::Code(code))) => Some(format!("its health command ended with code {code}")),
        (Reason::TimedOut, _) => Some("its health command took too long".to_owned()),
        (reason, _) => Some(format!("its health command ended: {}", reason.name())),
    }
}

/// Waits until a run has written nothing for so long.
async fn silent(run: &Run, within: Duration) -> String {
    let written = || run.started().map_or(0, |started| started.spool.len());
    let mut seen = written();
    loop {
        sleep(within).await;
        let now = written();
        if now == seen {
            return format!("it has written nothing for {within:?}");
        }
        seen = now;
    }
}
