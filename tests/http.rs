//! The HTTP server over real sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sample;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sample::server::Server;
use synwatch::http::{Settings, bind};

/// What a client does with the server.
trait Client {
    fn connect(&self) -> TcpStream;

    /// Sends `request` as it is and gives all that comes back; a client that is refused may find
    /// the connection reset.
    fn raw(&self, request: &str) -> String;

    fn ask(&self, method: &str, path: &str) -> Answer {
        Answer::parse(&self.raw(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")))
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path)
    }
}

impl Client for Server {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn raw(&self, request: &str) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }
}

fn quiet() -> Server {
    Server::start(sample::quiet(), Settings::default())
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head[9..12].parse().unwrap();
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

#[test]
fn metrics_come_with_those_of_the_process() {
    let answer = quiet().get("/metrics");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
    assert!(answer.body.contains("synwatch_build_info{version=\"0.1.0\"} 1\n"));
    assert!(answer.body.contains("\nprocess_resident_memory_bytes "));
    assert!(answer.body.ends_with('\n'));
}

#[test]
fn status_is_the_report_as_json() {
    let server = Server::start(sample::flooded(), Settings::default());
    let answer = server.get("/api/v1/status?pretty");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let status: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(status, serde_json::to_value(sample::flooded().document).unwrap());
    let detections: serde_json::Value =
        serde_json::from_str(&server.get("/api/v1/detections").body).unwrap();
    assert_eq!(detections, status["detections"]);
}

#[test]
fn page_shows_services_and_detections_escaped() {
    let mut report = sample::flooded();
    let process = report.document.services[0].process.as_mut().unwrap();
    process.unit = Some("<script>alert(1)</script>".into());
    report.document.detections[0].explanation = "1 < 2 & \"so on\"".into();
    let answer = Server::start(report, Settings::default()).get("/");
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(answer.body.contains("&lt;script&gt;alert(1)&lt;/script&gt; (812)"));
    assert!(answer.body.contains("1 &lt; 2 &amp; &quot;so on&quot;"));
    assert!(!answer.body.contains("<script"));
    for part in ["192.0.2.10:443", "[2001:db8::5]:8080", "SYN flood", "203.0.113.0/24", "<meter"] {
        assert!(answer.body.contains(part), "{part}");
    }
}

#[test]
fn ready_only_after_a_report() {
    let server = quiet();
    assert_eq!(server.get("/-/healthy").status, 200);
    assert_eq!(server.get("/-/ready").status, 503);
    server.reports.send(Arc::new(sample::quiet())).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while server.get("/-/ready").status != 200 {
        assert!(Instant::now() < deadline, "never ready");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn unready_when_reports_stop() {
    let server = quiet();
    server.reports.send(Arc::new(sample::quiet())).unwrap();
    thread::sleep(Duration::from_millis(5500));
    let answer = server.get("/-/ready");
    assert_eq!((answer.status, answer.body.as_str()), (503, "the capture has stopped reporting\n"));
}

#[test]
fn head_has_the_head_of_get_only() {
    let server = quiet();
    for path in ["/", "/api/v1/status", "/-/healthy"] {
        let (head, get) = (server.ask("HEAD", path), server.get(path));
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert_eq!(head.header("content-length"), get.header("content-length"), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"));
    }
}

#[test]
fn other_methods_and_paths_are_refused() {
    let server = quiet();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "FROB"] {
        let answer = server.ask(method, "/metrics");
        assert_eq!((answer.status, answer.header("allow")), (405, Some("get, head")));
    }
    assert_eq!(server.get("/metrics/").status, 404);
    assert_eq!(server.get("/../etc/passwd").status, 404);
    assert_eq!(server.ask("POST", "/nowhere").status, 404);
}

#[test]
fn bodies_are_ignored() {
    let server = quiet();
    let request = "GET /-/healthy HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(Answer::parse(&server.raw(request)).status, 200);
}

#[test]
fn nonsense_gets_400() {
    let server = quiet();
    assert_eq!(Answer::parse(&server.raw("\x16\x03\x01 nonsense\r\n\r\n")).status, 400);
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(15_000));
    assert_eq!(Answer::parse(&server.raw(&long)).status, 200);
    assert_eq!(server.get("/-/healthy").status, 200);
}

/// Time until the server closes the connection.
fn time_to_close(mut stream: TcpStream) -> Duration {
    let begin = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new());
    begin.elapsed()
}

fn hasty() -> Settings {
    Settings {
        header_timeout: Duration::from_millis(300),
        connection_timeout: Duration::from_millis(900),
        ..Settings::default()
    }
}

#[test]
fn silent_client_is_cut_off() {
    let server = Server::start(sample::quiet(), hasty());
    let mut half = server.connect();
    half.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
    assert!(time_to_close(half) < Duration::from_secs(5));
    assert!(time_to_close(server.connect()) < Duration::from_secs(5));
}

#[test]
fn client_that_does_not_read_is_cut_off() {
    // More than the socket buffers of both ends hold.
    let services = std::iter::repeat_n(sample::service("192.0.2.1", 80), 100_000);
    let report = sample::with_services(services);
    let settings = Settings { max_connections: 1, ..hasty() };
    let server = Server::start(report, settings);
    let mut lazy = server.connect();
    lazy.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(Answer::parse(&server.raw("")).status, 503, "the only slot is taken");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !server.raw("GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n").contains("200 OK") {
        assert!(Instant::now() < deadline, "the slot never came back");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn connections_are_bounded() {
    let settings = Settings { max_connections: 3, ..Settings::default() };
    let server = Server::start(sample::quiet(), settings);
    let idle: Vec<_> = (0..3).map(|_| server.connect()).collect();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(Answer::parse(&server.raw("")).status, 503);
    drop(idle);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(server.get("/-/healthy").status, 200);
}

#[test]
fn bind_error_names_the_address() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind(address).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {address}: Address")), "{error}");
    assert!(error.contains("in use"), "{error}");
}
