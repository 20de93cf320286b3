//! The files that make a brain of the program: its configuration, and a catalogue of one model.

use serde_json::{Value, json};

use super::super::{Brain, STATE};
use crate::gateway;

/// The variable in which it looks for a credential.
pub const KEY: &str = "GATEWAY_KEY";

/// What it brings along and a brain must not have.
const FEATURES: [&str; 21] = [
    "apps",
    "auth_elicitation",
    "browser_use",
    "browser_use_external",
    "code_mode_host",
    "computer_use",
    "goals",
    "hooks",
    "image_generation",
    "in_app_browser",
    "plugins",
    "remote_plugin",
    "shell_snapshot",
    "shell_tool",
    "skill_mcp_dependency_install",
    "skill_search",
    "sleep_tool",
    "tool_suggest",
    "unified_exec",
    "view_image",
    "workspace_dependencies",
];

/// How long it waits for the next bytes of an answer, in milliseconds: longer than the gateway, which cuts off in time what
/// hangs.
const IDLE_TIMEOUT_MS: u32 = 600_000;

/// Tokens of context that a model of today has at least; it shortens the conversation before they are full.
const CONTEXT: u32 = 272_000;

/// Its configuration. A basic string of TOML is written as one of JSON is.
pub fn config(brain: &Brain<'_>) -> String {
    let model = Value::from(brain.model);
    let features: Vec<String> = FEATURES.iter().map(|feature| format!("{feature} = false\n")).collect();
    format!(
        "\
model = {model}
model_provider = \"gateway\"
model_catalog_json = \"{STATE}/codex/catalog.json\"
approval_policy = \"never\"
sandbox_mode = \"read-only\"
web_search = \"disabled\"
check_for_update_on_startup = false
project_doc_max_bytes = 0
allow_login_shell = false
include_permissions_instructions = false
include_apps_instructions = false
include_environment_context = false
include_collaboration_mode_instructions = false
[analytics]
enabled = false
[feedback]
enabled = false
[history]
persistence = \"none\"
[skills]
include_instructions = false
[skills.bundled]
enabled = false
[tools.experimental_request_user_input]
enabled = false
[tools.update_plan]
enabled = false
[agents]
enabled = false
[model_providers.gateway]
name = \"gateway\"
base_url = \"http://127.0.0.1:{port}/v1\"
env_key = \"{KEY}\"
wire_api = \"responses\"
supports_websockets = false
request_max_retries = 2
stream_max_retries = 3
stream_idle_timeout_ms = {IDLE_TIMEOUT_MS}
[features]
{features}",
        port = gateway::PORT,
        features = features.concat(),
    )
}

/// The catalogue: our model, with none of the tools that the program would give it.
pub fn catalogue(brain: &Brain<'_>) -> Value {
    let level = |effort: &str| json!({ "effort": effort, "description": effort });
    let levels = ["low", "medium", "high"].map(level);
    let model = json!({
        "slug": brain.model,
        "display_name": brain.model,
        "description": "",
        "base_instructions": brain.prompt,
        "model_messages": null,
        "default_reasoning_level": "medium",
        "supported_reasoning_levels": levels,
        "supports_reasoning_summaries": false,
        "default_reasoning_summary": "none",
        "support_verbosity": false,
        "default_verbosity": null,
        "shell_type": "disabled",
        "apply_patch_tool_type": null,
        "web_search_tool_type": "text",
        "experimental_supported_tools": [],
        "supports_search_tool": false,
        "supports_parallel_tool_calls": false,
        "supports_image_detail_original": false,
        "input_modalities": ["text"],
        "tool_mode": "direct",
        "use_responses_lite": false,
        "multi_agent_version": null,
        "node_repl_disabled": true,
        // Our tools bound what they answer by themselves.
        "truncation_policy": { "mode": "bytes", "limit": 1 << 20 },
        "context_window": CONTEXT,
        "effective_context_window_percent": 95,
        "visibility": "list",
        "supported_in_api": true,
        "priority": 1,
        "upgrade": null,
    });
    json!({ "models": [model] })
}
