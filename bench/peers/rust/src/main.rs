//! The tutorial's Rust server for production: hyper (what axum is made of), reqwest and tokio-postgres.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use async_stream::stream;
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use hyper::server::conn::{AddrIncoming, AddrStream};
use hyper::service::{make_service_fn, service_fn};
use hyper::{header, Body, Method, Request, Response, Server, StatusCode};
use memchr::memchr;
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpSocket;
use tokio_postgres::{Client, NoTls, Statement};

const DATABASE_CONNECTIONS: usize = 10;
const BACKLOG: u32 = 4096;

type Failure = (StatusCode, String);

#[derive(Default, Deserialize, Serialize)]
struct Message {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct Prompt {
    #[serde(rename = "appID")]
    app_id: String,
    model: String,
    messages: Vec<Message>,
    stream: bool,
}

#[derive(Serialize)]
struct ChatRequest {
    model: String,
    messages: Vec<Message>,
    stream: bool,
}

#[derive(Default, Deserialize)]
struct ChatLine {
    model: String,
    message: Message,
    done: bool,
}

/// A connection to PostgreSQL with its prepared statements. Requests share it: it pipelines their queries.
struct Connection {
    client: Client,
    insert: Statement,
    history: Statement,
}

impl Connection {
    async fn open(url: &str) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("database: {}", error);
            }
        });
        let insert = client
            .prepare("INSERT INTO chatts (username, message, id, appid) VALUES ($1, $2, gen_random_uuid(), $3)")
            .await?;
        let history = client
            .prepare("SELECT username, message FROM chatts WHERE appid = $1 ORDER BY time ASC")
            .await?;
        Ok(Self {
            client,
            insert,
            history,
        })
    }

    async fn insert(
        &self,
        role: &str,
        content: &str,
        app_id: &str,
    ) -> Result<u64, tokio_postgres::Error> {
        self.client
            .execute(&self.insert, &[&role, &content, &app_id])
            .await
    }

    async fn history(&self, app_id: &str) -> Result<Vec<Message>, tokio_postgres::Error> {
        let rows = self.client.query(&self.history, &[&app_id]).await?;
        Ok(rows
            .into_iter()
            .map(|row| Message {
                role: row.get(0),
                content: row.get(1),
            })
            .collect())
    }
}

struct App {
    http: reqwest::Client,
    chat_url: String,
    connections: Vec<Connection>,
    turn: AtomicUsize,
    white_space: Regex,
}

impl App {
    async fn new() -> Result<Self, Box<dyn Error>> {
        let database_url = env::var("DATABASE_URL")?;
        let mut connections = Vec::with_capacity(DATABASE_CONNECTIONS);
        for _ in 0..DATABASE_CONNECTIONS {
            connections.push(Connection::open(&database_url).await?);
        }
        Ok(Self {
            http: reqwest::Client::builder().no_proxy().build()?,
            chat_url: format!("http://{}/api/chat", env::var("OLLAMA_HOST")?),
            connections,
            turn: AtomicUsize::new(0),
            white_space: Regex::new(r"\s+")?,
        })
    }

    fn database(&self) -> &Connection {
        &self.connections[self.turn.fetch_add(1, Ordering::Relaxed) % self.connections.len()]
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = Arc::new(App::new().await?);
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((
        [127, 0, 0, 1],
        env::var("PORT")?.parse()?,
    )))?;
    let mut incoming = AddrIncoming::from_listener(socket.listen(BACKLOG)?)?;
    incoming.set_nodelay(true);
    let service = make_service_fn(move |_: &AddrStream| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(service_fn(move |request| route(app.clone(), request))) }
    });
    Server::builder(incoming).serve(service).await?;
    Ok(())
}

async fn route(app: Arc<App>, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let answer = match (request.method(), request.uri().path()) {
        (&Method::POST, "/llmchat") => llmchat(app, request).await,
        _ => Err((StatusCode::NOT_FOUND, "Not found".into())),
    };
    Ok(answer.unwrap_or_else(|(status, text)| {
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        response
    }))
}

async fn llmchat(app: Arc<App>, request: Request<Body>) -> Result<Response<Body>, Failure> {
    let body = hyper::body::to_bytes(request.into_body())
        .await
        .map_err(client_error)?;
    let prompt: Prompt = serde_json::from_slice(&body)
        .map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;

    let database = app.database();
    for message in &prompt.messages {
        database
            .insert(&message.role, &message.content, &prompt.app_id)
            .await
            .map_err(|error| (StatusCode::NOT_ACCEPTABLE, error.to_string()))?;
    }
    let messages = database
        .history(&prompt.app_id)
        .await
        .map_err(server_error)?;
    let request = ChatRequest {
        model: prompt.model,
        messages,
        stream: prompt.stream,
    };
    let response = app
        .http
        .post(&app.chat_url)
        .json(&request)
        .send()
        .await
        .map_err(server_error)?;

    let events = events(app, prompt.app_id, response);
    Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream")
        .header(header::CACHE_CONTROL, "no-cache")
        .body(Body::wrap_stream(events))
        .map_err(server_error)
}

/// Yields Ollama's lines as events; stores the reply before the last of them.
fn events(
    app: Arc<App>,
    app_id: String,
    response: reqwest::Response,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream! {
        let mut lines = Lines::new(response);
        let mut reply = String::new();
        while let Some(line) = lines.next().await {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    yield Ok(failure(error));
                    break;
                }
            };
            let parsed: ChatLine = serde_json::from_slice(&line).unwrap_or_default();
            if parsed.model.is_empty() {
                let text = String::from_utf8_lossy(&line).replace("\\\"", "'");
                yield Ok(event("event: error\n", text.as_bytes()));
                continue;
            }
            reply.push_str(&parsed.message.content);
            let stored = if parsed.done {
                let text = app.white_space.replace_all(&reply, " ");
                app.database().insert("assistant", &text, &app_id).await.map(drop)
            } else {
                Ok(())
            };
            yield Ok(event("", &line));
            if let Err(error) = stored {
                yield Ok(failure(error));
            }
        }
    }
}

/// The lines of a response, independent of its chunks.
struct Lines {
    response: reqwest::Response,
    buffer: BytesMut,
    searched: usize,
}

impl Lines {
    fn new(response: reqwest::Response) -> Self {
        Self {
            response,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    async fn next(&mut self) -> Option<Result<Bytes, reqwest::Error>> {
        loop {
            if let Some(end) = memchr(b'\n', &self.buffer[self.searched..]) {
                let mut line = self.buffer.split_to(self.searched + end + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                return Some(Ok(line.freeze()));
            }
            self.searched = self.buffer.len();
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) if self.buffer.is_empty() => return None,
                Ok(None) => {
                    self.searched = 0;
                    return Some(Ok(self.buffer.split().freeze()));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn event(name: &str, data: &[u8]) -> Bytes {
    let mut event = BytesMut::with_capacity(name.len() + data.len() + 8);
    event.extend_from_slice(name.as_bytes());
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(data);
    event.extend_from_slice(b"\n\n");
    event.freeze()
}

fn failure(error: impl Error) -> Bytes {
    event(
        "event: error\n",
        json!({ "error": error.to_string() }).to_string().as_bytes(),
    )
}

fn client_error(error: impl Error) -> Failure {
    (StatusCode::BAD_REQUEST, error.to_string())
}

fn server_error(error: impl Error) -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
