//! What Docker tells of its containers without having been asked.
//!
//! Its stream of events ends whenever dockerd does, and one that was cut off is not gone on with: what happened in between
//! is told as [`Happening::Missed`], and whoever hears that looks at all of them.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::client::Client;
use super::container;
use crate::engine::{Change, Happening};

/// Between two tries to be told. A dockerd that starts takes about as long.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Tells what happens to the containers of a daemon until nobody listens any more. Cancel-safe.
pub async fn watch(client: &Client, instance: &str, tell: mpsc::Sender<Happening>) {
    let telling = async {
        // The end of the loop is that of whom it tells.
        while !tell.is_closed() {
            if client.ping().await.is_ok() {
                follow(client, instance, &tell).await;
            }
            sleep(TRY_AGAIN).await;
        }
    };
    tokio::select! {
        () = telling => {}
        () = tell.closed() => {}
    }
}

/// Tells what happens until the stream is cut off.
async fn follow(client: &Client, instance: &str, tell: &mpsc::Sender<Happening>) {
    // Who looks from here on misses nothing: what happens after this moment is in the stream, when it comes.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if tell.send(Happening::Missed).await.is_err() {
        return;
    }
    let kinds = ["die", "destroy", "oom", "pause", "unpause"].map(str::to_owned).to_vec();
    let filters = HashMap::from([
        ("type", vec!["container".to_owned()]),
        ("label", container::labels(instance, None)),
        ("event", kinds),
    ]);
    let options = EventsOptionsBuilder::new().since(&since.to_string()).filters(&filters).build();
    let mut events = std::pin::pin!(client.raw().events(Some(options)));
    while let Some(Ok(event)) = events.next().await {
        if let Some(happening) = happening(&event)
            && tell.send(happening).await.is_err()
        {
            return;
        }
    }
    tracing::warn!("Docker tells no more of its containers; they are looked at when it does again");
}

/// What an event says; `None` of one that is nobody's concern.
fn happening(event: &EventMessage) -> Option<Happening> {
    let change = match event.action.as_deref()? {
        "die" => Change::Ended,
        "destroy" => Change::Removed,
        "oom" => Change::OutOfMemory,
        "pause" => Change::Frozen,
        "unpause" => Change::Thawed,
        _ => return None,
    };
    let id = event.actor.as_ref()?.attributes.as_ref()?.get(container::SANDBOX)?;
    Some(Happening::To(id.parse().ok()?, change))
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::*;
    use crate::ids::SandboxId;

    fn event(action: &str, labels: &[(&str, &str)]) -> EventMessage {
        let attributes = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let actor = Some(EventActor { id: Some("c0ffee".to_owned()), attributes: Some(attributes) });
        EventMessage { action: Some(action.to_owned()), actor, ..EventMessage::default() }
    }

    #[test]
    fn what_docker_says_is_told_in_our_words_and_of_our_sandboxes() {
        let id = SandboxId::random();
        let of = |action| happening(&event(action, &[(container::SANDBOX, id.as_str())]));
        assert_eq!(of("die"), Some(Happening::To(id.clone(), Change::Ended)));
        assert_eq!(of("destroy"), Some(Happening::To(id.clone(), Change::Removed)));
        assert_eq!(of("oom"), Some(Happening::To(id.clone(), Change::OutOfMemory)));
        assert_eq!(of("pause"), Some(Happening::To(id.clone(), Change::Frozen)));
        assert_eq!(of("unpause"), Some(Happening::To(id.clone(), Change::Thawed)));
        assert_eq!(of("exec_create: true"), None);
        assert_eq!(happening(&event("die", &[])), None);
        assert_eq!(happening(&event("die", &[(container::SANDBOX, "../../etc")])), None);
        assert_eq!(happening(&EventMessage::default()), None);
    }
}
