//! What has happened becomes inputs.

use super::super::SessionError;
use super::super::state::{Input, MAX_QUEUE, Presence};
use super::super::tools::{Finished, Note, Outcome as CallOutcome};
use super::{BATCH, Copying, Driver, Happened, Job, Parked, Post, Request, Task, Waits};
use crate::runtime::process::{Line, Process};
use crate::store::Claim;
use crate::telemetry::chain;

impl Driver {
    /// What has happened becomes inputs; and what has happened beside it, if that needs no waiting.
    pub(super) async fn take(&mut self, happened: Happened) {
        match happened {
            Happened::Stop => {}
            Happened::Requested(None) => self.context.stop.cancelled().await,
            Happened::Requested(Some(request)) => {
                self.request(request).await;
                while self.backlog.len() < BATCH
                    && let Ok(request) = self.requests.try_recv()
                {
                    self.request(request).await;
                }
            }
            Happened::Noted(note) => note.into_iter().for_each(|note| self.note(note)),
            Happened::Ended(job) => {
                // What a call told before its end comes before its end.
                while let Ok(note) = self.notes.1.try_recv() {
                    self.note(note);
                }
                self.ended(job);
            }
            Happened::Spent(usage) => self.push(Input::Spent(usage)),
            Happened::Said(line) => {
                self.said(line);
                while self.backlog.len() < BATCH
                    && let Some(line) = self.process.as_mut().and_then(Process::take_line)
                {
                    self.said(line);
                }
            }
            Happened::Opened => self.opened(),
            Happened::Clock => self.push(Input::Clock),
        }
    }

    async fn request(&mut self, request: Request) {
        match request {
            Request::Cancel(reply) => {
                self.backlog.push_back(Task { input: Input::Cancel, waits: Waits::Caller(reply) });
            }
            Request::Archive(reply) => {
                self.backlog.push_back(Task { input: Input::Archive, waits: Waits::Caller(reply) });
            }
            Request::Send(post) => self.post(*post).await,
        }
    }

    async fn post(&mut self, post: Post) {
        let Post { actor, body, refs, claim, reply } = post;
        let claim = match claim {
            None => None,
            Some((key, digest)) => {
                // Those that wait to be stored come first.
                while !self.backlog.is_empty() && self.deal().await {}
                let scope = self.id.to_string();
                match self.context.store.claimed(scope.clone(), key.clone()).await {
                    Ok(None) => Some(Claim { scope, key, digest, value: String::new() }),
                    Ok(Some(found)) if found.digest == digest => {
                        let _ = reply.send(Ok((found.value.parse().unwrap_or_default(), false)));
                        return;
                    }
                    Ok(Some(_)) => {
                        let _ = reply.send(Err(SessionError::Conflict { field: "idempotency_key" }));
                        return;
                    }
                    Err(error) => {
                        let _ = reply.send(Err(SessionError::Store(error)));
                        return;
                    }
                }
            }
        };
        let refusal = if self.state.is_archived {
            Some(SessionError::Archived(self.id.clone()))
        } else if self.state.queue.len() + self.backlog.len() >= MAX_QUEUE {
            Some(SessionError::Busy { id: self.id.clone(), limit: MAX_QUEUE })
        } else {
            None
        };
        if let Some(error) = refusal {
            let _ = reply.send(Err(error));
            return;
        }
        let input = Input::Message { actor, body, refs };
        self.backlog.push_back(Task { input, waits: Waits::Sender(claim, reply) });
        // The brain is fetched while the message is being stored: nobody is told of that, and if the message cannot be
        // stored the brain goes again.
        if self.state.presence == Presence::Away && self.state.active.is_none() {
            self.fetch();
        }
    }

    fn note(&mut self, note: Note) {
        self.push(match note {
            Note::Began(call, sandbox, run) => Input::Began(call, sandbox, run),
            Note::Output(id, to, body) => Input::Output { id, to, body },
        });
    }

    fn ended(&mut self, job: Job) {
        match job {
            Job::Found(found) => {
                self.is_searching = false;
                match *found {
                    Ok(found) => self.arrived(found),
                    Err(error) => self.push(Input::Gone { why: chain(&error).to_string() }),
                }
            }
            Job::Finished(finished) => self.finished(finished),
            Job::Copied => {
                if std::mem::replace(&mut self.copying, Copying::Done) == Copying::Again {
                    self.copy();
                }
            }
            Job::Disposed => self.push(Input::Disposed),
            Job::Done => {}
        }
    }

    fn finished(&mut self, Finished { id, outcome }: Finished) {
        self.stops.remove(&id);
        match outcome {
            CallOutcome::Done { answer, exec } => self.push(Input::Done { id, answer, exec }),
            CallOutcome::NoHands(call) => {
                // They are made anew, and then it runs.
                self.parked.push(Parked::Run(call));
                self.fetch();
            }
            CallOutcome::Void => self.push(Input::Void(id)),
        }
    }

    fn said(&mut self, line: Line) {
        let (line, cursor) = match line {
            Line::Said(line, cursor) => (line, cursor),
            Line::Over(why) => return self.lose_process(why),
        };
        let Some(dialogue) = &mut self.dialogue else { return };
        match dialogue.read(&line) {
            Ok(said) => said.into_iter().for_each(|said| self.push(Input::Said(said, cursor))),
            Err(error) => self.lose_process(error.to_string()),
        }
    }
}
