//! What there is to ask for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Response, StatusCode};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use synwatch_core::metrics::{self, Exporter};
use synwatch_core::observe::{Snapshot, Status};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::http::page;

/// Reports come four times a second; after so long without one the capture hangs or is gone.
const STALE: Duration = Duration::from_secs(5);
/// The shortest time between two reports that are noted.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// The page needs its own style and nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the answers are made of.
pub struct State {
    reports: watch::Receiver<Arc<Snapshot>>,
    exporter: Box<dyn Fn() -> Exporter + Send + Sync>,
    telemetry_path: String,
    process: ProcessCollector,
    /// When a report came in last; `None` until the first.
    last_report: Mutex<Option<Instant>>,
}

impl State {
    /// Answers from the latest of `reports`; `exporter` is asked at every scrape, so it must be
    /// quick. The value that the channel was made with does not count as a report.
    pub fn new(
        reports: watch::Receiver<Arc<Snapshot>>,
        exporter: impl Fn() -> Exporter + Send + Sync + 'static,
        telemetry_path: impl Into<String>,
    ) -> Self {
        Self {
            reports,
            exporter: Box::new(exporter),
            telemetry_path: telemetry_path.into(),
            process: ProcessCollector::for_self(),
            last_report: Mutex::new(None),
        }
    }

    /// Notes when reports come in, until their sender is gone.
    pub(super) async fn watch_reports(self: Arc<Self>) {
        let mut reports = self.reports.clone();
        while reports.changed().await.is_ok() {
            *self.last_report.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            // Not woken by each of them.
            sleep(NOTE_INTERVAL).await;
        }
    }

    /// The answer to a request; its body has not been read and is not.
    pub(super) fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let get: fn(&Self) -> Response<Full<Bytes>> = match path {
            path if path == self.telemetry_path => Self::metrics,
            "/-/healthy" => |_| ok(TEXT, "healthy\n"),
            "/-/ready" => Self::ready,
            "/" => Self::page,
            "/api/v1/status" => |state| json(&state.reports.borrow().document),
            "/api/v1/detections" => |state| json(&state.reports.borrow().document.detections),
            _ => return answer(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        };
        // hyper sends the head of the answer only where HEAD asked for it.
        if method == Method::GET || method == Method::HEAD {
            return get(self);
        }
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        response
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let report = Arc::clone(&self.reports.borrow());
        let mut text = metrics::render(&report, &(self.exporter)());
        let mut process = self.process.collect();
        // Where /proc/stat is hidden (ProcSubset=pid) the start time is not known, and 0 is a lie.
        process.retain(|family| {
            family.name() != "process_start_time_seconds"
                || family.get_metric().iter().any(|metric| metric.get_gauge().get_value() > 0.0)
        });
        text.push_str(&metrics::encode(&process));
        ok(metrics::CONTENT_TYPE, text)
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let last = *self.last_report.lock().unwrap_or_else(PoisonError::into_inner);
        let unready = |why: String| answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, why);
        let report = Arc::clone(&self.reports.borrow());
        match last.map(|last| last.elapsed()) {
            None => unready("no report yet\n".to_owned()),
            Some(age) if age > STALE => unready("the capture has stopped reporting\n".to_owned()),
            Some(_) if report.document.status == Status::Unknown => {
                unready(report.document.unknown.iter().map(|why| format!("{why}\n")).collect())
            }
            Some(_) => ok(TEXT, "ready\n"),
        }
    }

    fn page(&self) -> Response<Full<Bytes>> {
        let report = Arc::clone(&self.reports.borrow());
        let mut response = ok(HTML, page::render(&report, &self.telemetry_path));
        response.headers_mut().insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(CONTENT_SECURITY_POLICY),
        );
        response
    }
}

fn json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => ok(JSON, body),
        Err(error) => {
            answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("cannot serialise: {error}\n"))
        }
    }
}

fn ok(content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    answer(StatusCode::OK, content_type, body)
}

fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
