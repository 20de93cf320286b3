//! Keys of model providers.

use std::time::SystemTime;

use anyhow::Context as _;
use clap::Subcommand;
use handsd::api::proto::{
    CreateCredentialRequest, Credential, DeleteCredentialRequest, ListCredentialsRequest, UpdateCredentialRequest,
};
use tokio::io::AsyncReadExt as _;

use crate::output::{self, Align};
use crate::sessions::show;
use crate::{Context, input, json};

/// Longer than any key that the node takes; it says so.
const MAX_KEY: u64 = 64 << 10;

/// Keys of model providers, which the node keeps sealed. They are read from stdin, so that no list of processes shows them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands credential create main --default < key.txt
  hands agent create coder --credential main")]
pub struct CredentialArgs {
    #[command(subcommand)]
    command: CredentialCommand,
}

#[derive(Debug, Subcommand)]
enum CredentialCommand {
    /// Keeps the key that comes on stdin, and prints its id
    Create(CreateArgs),
    /// Lists the credentials
    List,
    /// Replaces a key by the one that comes on stdin; sessions under way use it from then on
    Replace(CredentialName),
    /// Has agents use it that name none
    Default(CredentialName),
    /// Forgets a key
    Rm(CredentialName),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// Its name, which no other has
    #[arg(default_value = "")]
    name: String,
    /// Whose key it is
    #[arg(long, default_value = "anthropic")]
    provider: String,
    /// Agents that name none use it
    #[arg(long)]
    default: bool,
}

#[derive(Debug, clap::Args)]
struct CredentialName {
    /// The credential: its id or name
    credential: String,
}

/// `hands credential`
pub async fn credential(context: &Context, args: CredentialArgs) -> anyhow::Result<()> {
    let mut sessions = context.sessions();
    let update = |credential, key, make_default| UpdateCredentialRequest { credential, key, make_default };
    let changed = match args.command {
        CredentialCommand::Create(CreateArgs { name, provider, default }) => {
            let request = CreateCredentialRequest { provider, name, key: read_key().await?, is_default: default };
            sessions.create_credential(request).await?.into_inner()
        }
        CredentialCommand::List => {
            let found = sessions.list_credentials(ListCredentialsRequest {}).await?.into_inner().credentials;
            return show(context, found.iter().map(json::credential).collect(), || table(&found));
        }
        CredentialCommand::Replace(CredentialName { credential }) => {
            sessions.update_credential(update(credential, Some(read_key().await?), false)).await?.into_inner()
        }
        CredentialCommand::Default(CredentialName { credential }) => {
            sessions.update_credential(update(credential, None, true)).await?.into_inner()
        }
        CredentialCommand::Rm(CredentialName { credential }) => {
            sessions.delete_credential(DeleteCredentialRequest { credential }).await?;
            return Ok(());
        }
    };
    show(context, json::credential(&changed), || format!("{}\n", changed.id))
}

/// The key on stdin, without the line break that an editor puts behind it.
async fn read_key() -> anyhow::Result<String> {
    let mut key = String::new();
    input::stdin()?.take(MAX_KEY).read_to_string(&mut key).await.context("read the key from stdin")?;
    Ok(key.trim_end().to_owned())
}

fn table(credentials: &[Credential]) -> String {
    let columns = [
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("PROVIDER", Align::Left),
        ("KEY", Align::Left),
        ("AGE", Align::Right),
    ];
    let now = SystemTime::now();
    let row = |credential: &Credential| {
        let Credential { id, name, provider, is_default, last4, created_at, .. } = credential.clone();
        let provider = if is_default { format!("{provider} (default)") } else { provider };
        let key = if last4.is_empty() { String::new() } else { format!("...{last4}") };
        vec![id, name, provider, key, output::age(created_at, now)]
    };
    output::table(&columns, &credentials.iter().map(row).collect::<Vec<_>>())
}
