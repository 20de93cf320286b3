//! Agents.

use clap::Subcommand;
use handsd::api::proto::{Agent, CreateAgentRequest, GetAgentRequest, ListAgentsRequest, UpdateAgentRequest};

use crate::output::{self, Align};
use crate::sessions::{LimitArgs, show};
use crate::{Context, json};

/// Agents: who does the work of a session.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Makes an agent, or finds the one that is the same
    Create(CreateAgentArgs),
    /// Shows an agent
    Get(AgentName),
    /// Lists the agents
    List,
    /// Changes an agent; sessions that were made before keep it as it was
    Update(UpdateAgentArgs),
}

#[derive(Debug, clap::Args)]
struct CreateAgentArgs {
    /// Its name, which no other agent has
    name: String,
    /// What thinks
    #[arg(long, default_value = "script")]
    runtime: String,
    /// With which model
    #[arg(long, default_value = "")]
    model: String,
    /// What it is told before everything else
    #[arg(long, default_value = "")]
    prompt: String,
    /// What the sandbox of its hands is made of [default: the node's image]
    #[arg(long, default_value = "")]
    image: String,
    /// The key that its model is paid with: a credential's id or name [default: the provider's default]
    #[arg(long, default_value = "")]
    credential: String,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, clap::Args)]
struct UpdateAgentArgs {
    /// The agent: its id or name
    agent: String,
    /// Another model
    #[arg(long)]
    model: Option<String>,
    /// Another prompt
    #[arg(long)]
    prompt: Option<String>,
    /// Another credential; empty: the provider's default
    #[arg(long)]
    credential: Option<String>,
}

#[derive(Debug, clap::Args)]
struct AgentName {
    /// The agent: its id or name
    agent: String,
}

/// `hands agent`
pub async fn agent(context: &Context, args: AgentArgs) -> anyhow::Result<()> {
    let mut sessions = context.sessions();
    match args.command {
        AgentCommand::Create(CreateAgentArgs { name, runtime, model, prompt, image, credential, limits }) => {
            let limits = limits.message();
            let request = CreateAgentRequest { name, runtime, model, prompt, image, limits, credential };
            let agent = sessions.create_agent(request).await?.into_inner();
            show(context, json::agent(&agent), || format!("{}\n", agent.id))
        }
        AgentCommand::Get(AgentName { agent }) => {
            let agent = sessions.get_agent(GetAgentRequest { agent }).await?.into_inner();
            show(context, json::agent(&agent), || describe_agent(&agent))
        }
        AgentCommand::Update(UpdateAgentArgs { agent, model, prompt, credential }) => {
            let request = UpdateAgentRequest { agent, model, prompt, limits: None, credential };
            let agent = sessions.update_agent(request).await?.into_inner();
            show(context, json::agent(&agent), || describe_agent(&agent))
        }
        AgentCommand::List => {
            let mut agents = Vec::new();
            let mut request = ListAgentsRequest::default();
            loop {
                let page = sessions.list_agents(request.clone()).await?.into_inner();
                agents.extend(page.agents);
                if page.next_page_token.is_empty() {
                    break;
                }
                request.page_token = page.next_page_token;
            }
            show(context, agents.iter().map(json::agent).collect(), || agent_table(&agents))
        }
    }
}

fn agent_table(agents: &[Agent]) -> String {
    let columns = [
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("RUNTIME", Align::Left),
        ("MODEL", Align::Left),
        ("REV", Align::Right),
    ];
    let row = |agent: &Agent| {
        let Agent { id, name, runtime, model, revision, .. } = agent.clone();
        vec![id, name, runtime, model, revision.to_string()]
    };
    output::table(&columns, &agents.iter().map(row).collect::<Vec<_>>())
}

fn describe_agent(agent: &Agent) -> String {
    output::fields(&[
        ("id", agent.id.clone()),
        ("name", agent.name.clone()),
        ("runtime", agent.runtime.clone()),
        ("model", agent.model.clone()),
        ("image", agent.image.clone()),
        ("credential", agent.credential_id.clone()),
        ("revision", agent.revision.to_string()),
        ("prompt", agent.prompt.clone()),
    ])
}
