//! Files of a sandbox, as bytes.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, TryStreamExt, future};
use serde::Deserialize;

use super::Shared;
use super::body::Query;
use super::convert::{self, EntryView};
use super::problem::Problem;
use super::routes::Routes;
use super::sandboxes::find;
use crate::api::convert as messages;
use crate::api::status::Fault;
use crate::hands::Hands;
use crate::hands::files::{DEFAULT_DIRECTORY_MODE, ListOptions, MAX_PAGE_SIZE, ReadPart, ReadRange, WriteOptions};
use crate::sandbox::Lease;

/// Most entries of a listing, which is one answer: about 20 MiB of JSON.
const MAX_ENTRIES: usize = 100_000;

/// The size of a file when it was opened. It is no length of the body: the file may grow or shrink while it is read.
const X_FILE_SIZE: HeaderName = HeaderName::from_static("x-file-size");

/// Their routes.
pub fn routes() -> Routes {
    Routes::default()
        .get("/api/sandboxes/{id}/files", "Reads a file", read)
        // Its body goes to the file as it comes, and is never held.
        .put("/api/sandboxes/{id}/files", "Writes a file, whole or not at all", write)
        .delete("/api/sandboxes/{id}/files", "Removes a file, or a directory with all it holds", remove)
        .get("/api/sandboxes/{id}/files/list", "Lists a directory", list)
        .post("/api/sandboxes/{id}/files/mkdir", "Makes a directory and the parents that are missing", make_directory)
        .layer(DefaultBodyLimit::disable())
}

#[derive(Debug, Deserialize)]
struct PathQuery {
    path: String,
}

/// The path that a request is about, and the hands that reach it as long as the lease is held.
async fn reach(surface: &Shared, id: &str, query: PathQuery) -> Result<(String, Hands, Lease), Problem> {
    let path = messages::path("path", query.path)?;
    let (hands, lease) = find(surface, id)?.awake().await.map_err(Fault::from)?;
    Ok((path, hands, lease))
}

async fn read(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<PathQuery>,
) -> Result<Response, Problem> {
    let (path, hands, lease) = reach(&surface, &id, query).await?;
    let range = ReadRange::Bytes { offset: 0, limit: None };
    let reading = hands.files().read(&path, range).await.map_err(Fault::from)?;
    let size = reading.info.size.to_string();
    // Held until the last byte is on its way.
    let lease = Arc::new(lease);
    let data = reading.into_stream().filter_map(move |part| {
        let _lease = Arc::clone(&lease);
        future::ready(match part {
            Ok(ReadPart::Data(data)) => Some(Ok(data)),
            Ok(ReadPart::End(_)) => None,
            Err(error) => Some(Err(error)),
        })
    });
    let headers = [(CONTENT_TYPE, "application/octet-stream".to_owned()), (X_FILE_SIZE, size)];
    Ok((headers, Body::from_stream(data)).into_response())
}

async fn write(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<PathQuery>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let (path, hands, _lease) = reach(&surface, &id, query).await?;
    let options = WriteOptions { path, create_parents: true, ..WriteOptions::default() };
    let mut writing = hands.files().write(options).await.map_err(Fault::from)?;
    let mut chunks = body.into_data_stream();
    // A body that breaks off leaves the old file.
    while let Some(chunk) =
        chunks.try_next().await.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body broke off"))?
    {
        writing.push(chunk).await.map_err(Fault::from)?;
    }
    writing.finish().await.map_err(Fault::from)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<PathQuery>,
) -> Result<StatusCode, Problem> {
    let (path, hands, _lease) = reach(&surface, &id, query).await?;
    hands.files().remove_all(&path).await.map_err(Fault::from)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn make_directory(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<PathQuery>,
) -> Result<StatusCode, Problem> {
    let (path, hands, _lease) = reach(&surface, &id, query).await?;
    hands.files().mkdir_all(&path, DEFAULT_DIRECTORY_MODE).await.map_err(Fault::from)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list(
    State(surface): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<PathQuery>,
) -> Result<axum::Json<Vec<EntryView>>, Problem> {
    let (path, hands, _lease) = reach(&surface, &id, query).await?;
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let options = ListOptions { path: path.clone(), depth: 1, hidden: true, limit: MAX_PAGE_SIZE, page_token };
        let page = hands.files().list(options).await.map_err(Fault::from)?;
        entries.extend(page.entries.iter().map(convert::entry));
        match page.next_page_token {
            None => return Ok(axum::Json(entries)),
            Some(_) if entries.len() >= MAX_ENTRIES => {
                return Err(Problem::field("path", format!("has more than {MAX_ENTRIES} entries")));
            }
            Some(next) => page_token = next,
        }
    }
}
