//! What a sandbox can reach: `--network` and `--allow`, and `hands allow`.

use anyhow::{Context as _, bail};
use handsd::api::proto::network::Mode as Message;
use handsd::api::proto::{BoundSecret, Network, NetworkUsage, Sandbox, SetNetworkRequest};

use crate::events::Format;
use crate::{Context, json, output};

/// A kind of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Its own loopback
    None,
    /// What is listed, through the node
    Proxy,
    /// All but the node, its other sandboxes and private networks
    Nat,
    /// What the node reaches
    Host,
}

/// Replaces what a sandbox of network "proxy" can connect to; connections that are not allowed any more are cut.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands allow $ID example.com '*.debian.org:80'
  hands allow $ID                        # nothing any more")]
pub struct AllowArgs {
    /// The sandbox
    id: String,
    /// Names, \"*.name\", \"*\" or addresses, with or without a port
    #[arg(value_name = "NAME[:PORT]")]
    rules: Vec<String>,
}

/// What a secret's name begins with that goes over plain HTTP too.
const PLAIN: &str = "http://";

/// A secret that the proxy puts into a header, as the command line says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretArg {
    name: String,
    /// It goes over plain HTTP too.
    plain: bool,
    header: String,
    /// Of this process's environment: what is on the command line, everybody on this machine sees.
    variable: String,
}

impl std::str::FromStr for SecretArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('=').and_then(|(place, variable)| Some((place.rsplit_once(':')?, variable)));
        let ((name, header), variable) = parts.ok_or("expected NAME:HEADER=VARIABLE")?;
        let (name, plain) = name.strip_prefix(PLAIN).map_or((name, false), |name| (name, true));
        Ok(Self { name: name.to_owned(), plain, header: header.to_owned(), variable: variable.to_owned() })
    }
}

/// The secrets of a request.
pub fn secrets(args: Vec<SecretArg>) -> anyhow::Result<Vec<BoundSecret>> {
    let read = |SecretArg { name, plain, header, variable }| {
        let value = std::env::var(&variable).with_context(|| format!("the environment's {variable}"))?;
        Ok(BoundSecret { name, header, value, plain })
    };
    args.into_iter().map(read).collect()
}

/// The network of a request.
pub fn request(mode: Option<Mode>, allow: Vec<String>) -> anyhow::Result<Option<Network>> {
    let mode = match mode {
        None if allow.is_empty() => return Ok(None),
        None | Some(Mode::Proxy) => Message::Proxy,
        Some(_) if !allow.is_empty() => bail!("--allow is for --network proxy only"),
        Some(Mode::None) => Message::None,
        Some(Mode::Nat) => Message::Nat,
        Some(Mode::Host) => Message::Host,
    };
    Ok(Some(Network { mode: mode.into(), allow }))
}

/// `hands allow`
pub async fn allow(context: &Context, args: AllowArgs) -> anyhow::Result<()> {
    let network = Network { mode: Message::Proxy.into(), allow: args.rules };
    let request = SetNetworkRequest { sandbox_id: args.id, network: Some(network), secrets: Vec::new() };
    let sandbox = context.sandboxes().set_network(request).await?.into_inner();
    match context.format {
        Format::Text => output::print(&format!("{}\n", describe(&sandbox))),
        Format::Json => output::print_json(&json::sandbox(&sandbox)),
    }
}

/// Mode, list and use in one line.
pub fn describe(sandbox: &Sandbox) -> String {
    let network = sandbox.network.clone().unwrap_or_default();
    let mut text = network.mode().as_str_name().to_ascii_lowercase();
    for rule in &network.allow {
        text.push_str(&format!(" {rule}"));
    }
    if let Some(usage) = sandbox.network_usage.filter(|usage| *usage != NetworkUsage::default()) {
        let NetworkUsage { connected, refused, sent_bytes, received_bytes } = usage;
        let (sent, received) = (output::size(sent_bytes), output::size(received_bytes));
        text.push_str(&format!("; {connected} connections, {refused} refused, {sent} out, {received} in"));
    }
    text
}

/// Where its secrets go, in one line; empty if it has none.
pub fn describe_secrets(sandbox: &Sandbox) -> String {
    let secret = |it: &BoundSecret| format!("{}{}:{}", if it.plain { PLAIN } else { "" }, it.name, it.header);
    sandbox.secrets.iter().map(secret).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_said_by_where_it_goes_and_where_it_is() {
        let secret = |name: &str, plain| {
            let (header, variable) = ("authorization".to_owned(), "TOKEN".to_owned());
            Ok(SecretArg { name: name.to_owned(), plain, header, variable })
        };
        assert_eq!("a.com:authorization=TOKEN".parse(), secret("a.com", false));
        assert_eq!("a.com:443:authorization=TOKEN".parse(), secret("a.com:443", false));
        assert_eq!("http://a.com:8080:authorization=TOKEN".parse(), secret("a.com:8080", true));
        assert!("a.com=TOKEN".parse::<SecretArg>().is_err());
    }

    #[test]
    fn a_list_implies_the_proxy_and_fits_nothing_else() {
        let allow = || vec!["a.com".to_owned()];
        assert_eq!(request(None, Vec::new()).unwrap(), None);
        assert_eq!(request(None, allow()).unwrap().unwrap().mode(), Message::Proxy);
        assert_eq!(request(Some(Mode::Proxy), Vec::new()).unwrap().unwrap().mode(), Message::Proxy);
        assert!(request(Some(Mode::Nat), allow()).is_err());
    }
}
