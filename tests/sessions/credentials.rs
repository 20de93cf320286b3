//! Keys of model providers, over gRPC and from the command line.

use std::io::Write as _;
use std::process::{Command, Stdio};

use handsd::api::proto::{
    CreateAgentRequest, CreateCredentialRequest, DeleteCredentialRequest, GetAgentRequest, ListCredentialsRequest,
    UpdateAgentRequest,
};
use tonic::Code;

use crate::support::{Daemon, field, refusal};

const KEY: &str = "sk-secret-0123456789-wxyz";

fn wish(name: &str) -> CreateCredentialRequest {
    let (provider, name) = ("anthropic".to_owned(), name.to_owned());
    CreateCredentialRequest { provider, name, key: KEY.to_owned(), is_default: false }
}

fn agent(credential: &str) -> CreateAgentRequest {
    let (name, runtime) = ("paid".to_owned(), "script".to_owned());
    CreateAgentRequest { name, runtime, credential: credential.to_owned(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_names_its_credential_and_nobody_is_shown_the_key() {
    let Some(daemon) = Daemon::start().await else { return };
    let mut sessions = daemon.sessions();
    let made = sessions.create_credential(wish("main")).await.expect("it is kept").into_inner();
    assert_eq!((made.name.as_str(), made.last4.as_str()), ("main", "wxyz"));
    let by_name = sessions.create_agent(agent("main")).await.expect("it is made").into_inner();
    let by_id = sessions.create_agent(agent(&made.id)).await.expect("it is the same").into_inner();
    assert_eq!((&by_name.credential_id, &by_id.id), (&made.id, &by_name.id));
    let refused = sessions.create_agent(agent("missing")).await;
    assert_eq!(refusal(refused), (Code::NotFound, "CREDENTIAL_NOT_FOUND".to_owned()));

    let paid = "paid".to_owned();
    let change = UpdateAgentRequest { agent: paid.clone(), credential: Some(String::new()), ..Default::default() };
    let changed = sessions.update_agent(change).await.expect("it is changed").into_inner();
    assert_eq!((changed.credential_id.as_str(), changed.revision), ("", 2));
    let unchanged = UpdateAgentRequest { agent: paid.clone(), prompt: Some("x".to_owned()), ..Default::default() };
    sessions.update_agent(unchanged).await.expect("it is changed");
    let found = sessions.get_agent(GetAgentRequest { agent: paid }).await.expect("it is there").into_inner();
    assert_eq!(found.credential_id, "");

    let listed = sessions.list_credentials(ListCredentialsRequest {}).await.expect("they are listed").into_inner();
    assert_eq!(listed.credentials, std::slice::from_ref(&made));
    sessions.delete_credential(DeleteCredentialRequest { credential: made.id }).await.expect("it is forgotten");
    let again = sessions.delete_credential(DeleteCredentialRequest { credential: "main".to_owned() }).await;
    assert_eq!(refusal(again), (Code::NotFound, "CREDENTIAL_NOT_FOUND".to_owned()));
    assert!(!daemon.log().contains(KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_credential_is_refused_by_the_field() {
    let Some(daemon) = Daemon::start().await else { return };
    let mut sessions = daemon.sessions();
    sessions.create_credential(wish("taken")).await.expect("it is kept");
    assert_eq!(
        refusal(sessions.create_credential(wish("taken")).await),
        (Code::AlreadyExists, "CREDENTIAL_EXISTS".to_owned())
    );
    for (bad, name) in [
        (CreateCredentialRequest { key: String::new(), ..wish("a") }, "key"),
        (CreateCredentialRequest { key: "two words".to_owned(), ..wish("a") }, "key"),
        (CreateCredentialRequest { provider: String::new(), ..wish("a") }, "provider"),
        (wish("managed"), "name"),
    ] {
        let refused = sessions.create_credential(bad).await.expect_err("it is bad");
        assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, name));
    }
}

fn hands(daemon: &Daemon, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hands"));
    command.args(arguments).env("HANDS_ADDR", daemon.address()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("hands starts");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("hands reads it");
    let output = child.wait_with_output().expect("hands ends");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("it is text").trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_the_command_line_is_read_from_stdin() {
    let Some(daemon) = Daemon::start().await else { return };
    let id = hands(&daemon, &["credential", "create", "main", "--default"], &format!("{KEY}\n"));
    assert!(id.starts_with("cred_"), "{id}");
    let listed = hands(&daemon, &["credential", "list"], "");
    assert!(listed.contains("anthropic (default)") && listed.contains("...wxyz"), "{listed}");
    hands(&daemon, &["agent", "create", "paid", "--credential", "main"], "");
    assert!(hands(&daemon, &["agent", "get", "paid"], "").contains(&id));
    assert_eq!(hands(&daemon, &["credential", "replace", "main"], "another-key-0123456789"), id);
    assert!(hands(&daemon, &["credential", "list"], "").contains("...6789"));
    hands(&daemon, &["credential", "rm", "main"], "");
    assert!(!hands(&daemon, &["credential", "list"], "").contains(&id));
}
