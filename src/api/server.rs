//! Accepting connections, bounding them, and ending them when the daemon stops.
//!
//! | task | owns | ends |
//! |---|---|---|
//! | `serve` | the listeners | when told to stop, after the grace period at the latest |
//! | one per connection | its socket, the request under way | with the connection |
//! | one per request for a bound lease or place (`bound.rs`) | that request | with its answer |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::base::limits;
use crate::host::{Caller, Host, Subject};

use super::connection::{Activity, Observed, Order, Phase};
use super::context::{Ask, Context, Options};
use super::kv::duration;
use super::loopback::Gate;
use super::route;
use super::stream::Body;

/// Where the API listens.
pub struct Listeners {
    /// The local socket; its file's permissions say who may connect.
    pub unix: UnixListener,
    /// A loopback port, with the token that is asked for there. Sent by whoever reads its file;
    /// only the newest counts.
    pub tcp: Option<(TcpListener, watch::Receiver<String>)>,
}

/// How often connections are looked at for being overdue.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long accepting pauses after an error such as a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection over the limit may take to say anything and be told so.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that are being told so at once; beyond it they are closed without a word.
const REFUSALS_MAX: usize = 64;
/// What a connection over the limit is answered, whatever it asks.
const REFUSAL: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/problem+json\r\n\
    retry-after: 1\r\nconnection: close\r\ncontent-length: 190\r\n\r\n\
    {\"type\":\"/problems/too_many_requests\",\"title\":\"Too many requests\",\"status\":429,\
    \"detail\":\"the limit of connections of this node or user is reached\",\
    \"code\":\"too_many_requests\",\"applied\":\"no\"}\n";

/// Serves the API until `stop` resolves; then streams are told, requests under way are answered,
/// and what is left after the grace period is cut off. Fails only when the loopback listener has no
/// address.
///
/// Other `options` are in force for requests that come after them.
pub async fn serve(
    host: Host,
    listeners: Listeners,
    mut options: watch::Receiver<Options>,
    stop: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let gate = match &listeners.tcp {
        Some((listener, token)) => {
            Some(Arc::new(Gate::new(listener.local_addr()?.port(), token.clone())))
        }
        None => None,
    };
    let (stopping, stopped) = watch::channel(false);
    let first = options.borrow_and_update().clone();
    let contexts = watch::Sender::new(Arc::new(Context::new(&host, first, stopped)));
    let connections = Arc::new(Connections::new());
    {
        let accepting = accept(&contexts, &connections, listeners, gate, stop);
        tokio::select! {
            () = accepting => {}
            never = follow(&contexts, options.clone()) => match never {},
        }
    }
    let grace = duration(options.borrow().grace);
    // The listeners are closed by now: nobody connects any more.
    stopping.send_replace(true);
    connections.order(Order::Close);
    if tokio::time::timeout(grace, connections.gone()).await.is_err() {
        connections.order(Order::Kill);
        connections.gone().await;
    }
    Ok(())
}

/// Puts other limits in force, for as long as it is polled.
async fn follow(
    contexts: &watch::Sender<Arc<Context>>,
    mut options: watch::Receiver<Options>,
) -> Infallible {
    while options.changed().await.is_ok() {
        let options = options.borrow_and_update().clone();
        contexts.send_modify(|context| *context = Arc::new(context.with(options)));
    }
    // They stay as they are.
    std::future::pending().await
}

async fn accept(
    contexts: &watch::Sender<Arc<Context>>,
    connections: &Arc<Connections>,
    listeners: Listeners,
    gate: Option<Arc<Gate>>,
    stop: impl Future<Output = ()> + Send,
) {
    let mut sweep = tokio::time::interval_at(Instant::now() + SWEEP_INTERVAL, SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(stop);
    loop {
        let failed = tokio::select! {
            () = &mut stop => return,
            _ = sweep.tick() => {
                connections.sweep();
                None
            }
            accepted = listeners.unix.accept() => match accepted {
                Ok((socket, _)) => {
                    accept_unix(contexts, connections, socket);
                    None
                }
                Err(error) => Some(error),
            },
            accepted = accept_tcp(&listeners) => match accepted {
                Ok(socket) => {
                    begin(contexts, connections, socket, Caller::with_token(), gate.clone());
                    None
                }
                Err(error) => Some(error),
            },
        };
        if let Some(error) = failed {
            tracing::warn!(%error, "a connection to the local API could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

async fn accept_tcp(listeners: &Listeners) -> io::Result<TcpStream> {
    match &listeners.tcp {
        Some((listener, _)) => {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            Ok(socket)
        }
        None => std::future::pending().await,
    }
}

fn accept_unix(
    contexts: &watch::Sender<Arc<Context>>,
    connections: &Arc<Connections>,
    socket: UnixStream,
) {
    let Ok(caller) = Caller::of(&socket) else {
        tracing::debug!("a caller went before the kernel could say who it was");
        return;
    };
    begin(contexts, connections, socket, caller, None);
}

/// Starts the task of a connection, or refuses it.
fn begin<S>(
    contexts: &watch::Sender<Arc<Context>>,
    connections: &Arc<Connections>,
    mut socket: S,
    caller: Caller,
    gate: Option<Arc<Gate>>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some(ticket) = connections.enter(caller.uid, &contexts.borrow().options) else {
        if let Ok(permit) = connections.refusals.clone().try_acquire_owned() {
            tokio::spawn(async move {
                // The answer may not come before the question: clients take that for a fault.
                let mut head = [0; 1024];
                let told = async {
                    if socket.read(&mut head).await? == 0 {
                        return Ok(());
                    }
                    socket.write_all(REFUSAL).await?;
                    socket.shutdown().await
                };
                let _ = tokio::time::timeout(REFUSAL_TIMEOUT, told).await;
                drop(permit);
            });
        }
        return;
    };

    let contexts = contexts.subscribe();
    tokio::spawn(async move {
        run(contexts, socket, caller, gate, ticket.activity.clone()).await;
        drop(ticket);
    });
}

async fn run<S>(
    contexts: watch::Receiver<Arc<Context>>,
    socket: S,
    caller: Caller,
    gate: Option<Arc<Gate>>,
    activity: Arc<Activity>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let io = Observed::new(socket, activity.clone());
    let subject = Arc::new(Subject::of(caller.clone()));
    let service = service_fn(|request: Request<Incoming>| {
        let (gate, activity) = (&gate, &activity);
        let context = contexts.borrow().clone();
        let (caller, subject) = (caller.clone(), subject.clone());
        async move {
            activity.enter(Phase::Request);
            let (parts, body) = request.into_parts();
            let response = match gate.as_ref().map(|gate| gate.check(&parts)) {
                Some(Err(fault)) => fault.into_response(),
                _ => route::answer(&context, Ask { caller, subject, parts, body }).await,
            };
            match response.body() {
                Body::Full(_) => activity.enter(Phase::Idle),
                Body::Stream(_) => {}
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(limits::HEADERS_MAX)
        .max_buf_size(limits::HEAD_BYTES_MAX)
        .serve_connection(io, service);
    tokio::pin!(connection);
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection to the local API broke");
                }
                return;
            }
            order = activity.ordered() => match order {
                Order::Close => connection.as_mut().graceful_shutdown(),
                Order::Kill => return,
            },
        }
    }
}

/// The connections there are.
struct Connections {
    table: Mutex<Table>,
    /// Notified when the last one goes.
    left: Notify,
    refusals: Arc<Semaphore>,
}

#[derive(Default)]
struct Table {
    next: u64,
    activities: BTreeMap<u64, Arc<Activity>>,
    by_uid: BTreeMap<u32, usize>,
}

/// Counts a connection for as long as it is there.
struct Ticket {
    connections: Arc<Connections>,
    number: u64,
    uid: u32,
    activity: Arc<Activity>,
}

impl Connections {
    fn new() -> Self {
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        Self { table: Mutex::default(), left: Notify::new(), refusals }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change is one step: a panic elsewhere leaves the table right.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, uid: u32, options: &Options) -> Option<Ticket> {
        let mut table = self.table();
        let of_uid = table.by_uid.get(&uid).copied().unwrap_or_default();
        if table.activities.len() >= options.connections_max
            || of_uid >= options.connections_per_uid_max
        {
            return None;
        }
        let number = table.next;
        table.next += 1;
        let activity = Arc::new(Activity::new());
        table.activities.insert(number, activity.clone());
        table.by_uid.insert(uid, of_uid + 1);
        Some(Ticket { connections: self.clone(), number, uid, activity })
    }

    fn sweep(&self) {
        for activity in self.table().activities.values() {
            if activity.is_overdue() {
                activity.order(Order::Kill);
            }
        }
    }

    fn order(&self, order: Order) {
        for activity in self.table().activities.values() {
            activity.order(order);
        }
    }

    async fn gone(&self) {
        loop {
            let left = self.left.notified();
            if self.table().activities.is_empty() {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        table.activities.remove(&self.number);
        if let Some(count) = table.by_uid.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                table.by_uid.remove(&self.uid);
            }
        }
        let last = table.activities.is_empty();
        drop(table);
        if last {
            self.connections.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::REFUSAL;
    use crate::api::types::{Code, Problem};

    #[test]
    fn the_refusal_is_a_whole_answer() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        let problem: Problem = serde_json::from_str(body).unwrap();
        assert_eq!((problem.code, problem.status), (Code::TooManyRequests, 429));
    }
}
