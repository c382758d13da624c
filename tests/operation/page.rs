//! The status page in a browser, under load and with ten thousand accounts.

use std::net::SocketAddr;
use std::path::Path;

use imapool::demo::server::{Options, Server};
use serde_json::json;

use crate::browser::Browser;
use crate::http::{call, post};
use crate::load::{Load, connect, login};
use crate::process::Imapool;

const ACCOUNTS: usize = 10_000;
/// A name that would be an element, if it were set as HTML.
const ODD: &str = "<img src=x onerror=alert(1)>";

/// So many accounts have been here.
async fn visit_all(address: SocketAddr) {
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            tokio::spawn(async move {
                for number in (task..ACCOUNTS).step_by(16) {
                    let mut client = connect(address, None).await;
                    client.send(login(&format!("account-{number:05}"))).await;
                    client.play("S: a OK…\nC: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// The sum of the series of a metric.
async fn metric(admin: SocketAddr, series: &str) -> u64 {
    let text = call(admin, "GET", "/metrics", "").await.body;
    let values = text.lines().filter(|line| line.starts_with(series)).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().unwrap() as u64).sum()
}

fn digits(text: &str) -> u64 {
    text.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_lives_in_a_browser() {
    if !Browser::is_installed() {
        assert!(std::env::var_os("IMAPOOL_REQUIRE_REAL").is_none(), "chromium is not installed");
        eprintln!("SKIPPED: chromium is not installed");
        return;
    }
    let server = Server::start(Options::default()).await.unwrap();
    let imapool = Imapool::with_tcp_admin(server.address(), "[pool]\nmax_total = 150\n").await;
    let (address, admin) = (imapool.address(), imapool.listening("admin"));
    visit_all(address).await;
    let mut odd = connect(address, None).await;
    odd.send(login(ODD)).await;
    odd.play("S: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
    let load = Load::start(address, None, 4, 8).await;
    load.further(50).await;
    // The driver waits without yielding, and the load goes on.
    let looked = tokio::task::spawn_blocking(move || look(admin));
    let mut browser = looked.await.unwrap();
    load.finish().await;
    at_rest(&mut browser, admin).await;
    odd.play("C: z LOGOUT\nS: * BYE…\nS: z OK…\nS.").await;
    // The browser may not act, token or not; who may, is shown.
    post(admin, "/api/backends/main/pause").await;
    browser.until("the pause is shown", "document.querySelector('#backends tbody').innerText.includes('paused')");
    let (requests, complaints) = browser.requests_and_complaints();
    let ours = format!("http://{admin}/");
    let others: Vec<_> = requests.iter().filter(|url| !url.starts_with(&ours) && !url.starts_with("data:,")).collect();
    assert!(requests.len() > 10 && others.is_empty(), "{others:?}");
    assert_eq!(complaints, [""; 0]);
}

/// Clicks through the page.
fn look(admin: SocketAddr) -> Browser {
    let mut browser = Browser::start();
    browser.look("light", 1280, 900);
    browser.open(&format!("http://{admin}/"));
    browser.until("it is live", "document.querySelector('#state').innerText === 'ready'");
    let known = browser.text("#accounts-known");
    assert!(digits(&known) as usize > ACCOUNTS, "{known}");
    browser.until("twenty rows", "document.querySelectorAll('#accounts tbody tr').length === 20");
    // Numbers move.
    let before = browser.text("#commands");
    browser.until("commands are run", "parseFloat(document.querySelector('#commands').innerText.replace(',', '')) > 0");
    browser.until("numbers move", &format!("document.querySelector('#commands').innerText !== {}", json!(before)));
    browser.until("the charts grow", "points.length >= 3 && document.querySelectorAll('canvas').length === 5");
    browser.until("reuse is told", "document.querySelector('#reuse').innerText.endsWith('%')");

    browser.click("[data-sort=name]");
    browser.until("by name", "document.querySelector('[data-sort=name]').getAttribute('aria-pressed') === 'true'");
    let first = "document.querySelector('#accounts tbody tr:first-child td:first-child').innerText";
    browser.until("the odd one first", &format!("{first} === {}", json!(ODD)));
    assert_eq!(browser.value("document.querySelectorAll('img').length"), 0, "names are text");
    browser.click("#next");
    browser.until("the second page", &format!("{first} === 'account-00019'"));
    browser.click("#previous");
    browser.until("the first page again", "document.querySelector('#previous').disabled");
    browser.click("#filter");
    browser.type_text("account-0777");
    browser.until("ten accounts", "document.querySelectorAll('#accounts tbody tr').length === 10");
    browser.value("document.querySelector('#filter').select()");
    browser.type_text("<IMG");
    browser.until("one account", "document.querySelectorAll('#accounts tbody tr').length === 1");
    browser.click("#accounts tbody tr:first-child button");
    browser.until("its session", "document.querySelectorAll('#sessions-table tbody tr').length === 1");
    assert_eq!(browser.text("#account-name"), ODD);
    assert!(browser.text("#sessions-table tbody").contains("INBOX"));
    browser.until(
        "its hub",
        &format!(
            "[...document.querySelectorAll('#hubs tbody tr')].some((tr) => tr.innerText.startsWith({}))",
            json!(ODD)
        ),
    );
    browser.until("a bar that is seen", "parseFloat(document.querySelector('#gauge-bar').style.width) > 30");
    assert!(browser.text("#login-results").contains("refused by the server"));
    assert!(browser.text("#no-certificates").starts_with("None"));
    let mark = "getComputedStyle(document.querySelector('#state'), '::before').content";
    assert!(browser.value(mark).as_str().unwrap().contains('\u{2713}'), "told by colour alone");
    assert_eq!(browser.value("clock(Date.UTC(2026, 0, 1, 23, 5) / 1000).length"), 8, "no AM or PM");
    browser.click("#account-close");
    browser.until("closed", "document.querySelector('#account-sessions').hidden");
    browser.value("document.querySelector('#filter').select()");
    browser.type_text("user");
    browser.click("[data-sort=sessions]");
    browser.until("the busiest first", "document.querySelectorAll('#accounts tbody tr').length >= 5");
    browser.until("a few samples", "points.length >= 8");

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, scheme, width, height) in
        [("light", "light", 1280, 1500), ("dark", "dark", 1280, 1500), ("phone", "light", 390, 844)]
    {
        browser.look(scheme, width, height);
        browser.until("the charts fit", "charts.every(({ plot, at }) => plot.width === at.clientWidth)");
        assert_eq!(
            browser.value("document.documentElement.scrollWidth <= window.innerWidth"),
            true,
            "{name} scrolls sideways"
        );
        let tiles = "[...document.querySelectorAll('.tile')].every((tile) => tile.scrollWidth <= tile.clientWidth)";
        assert_eq!(browser.value(tiles), true, "{name}: a tile is too narrow for its text");
        browser.screenshot(&folder.join(format!("{name}.png")));
    }
    browser.look("light", 1280, 900);
    browser
}

/// Nobody comes and goes any more: what the page says is what the metrics say.
async fn at_rest(browser: &mut Browser, admin: SocketAddr) {
    let sessions = metric(admin, "imapool_client_sessions ").await;
    browser.until("sessions agree", &format!("document.querySelector('#sessions').innerText === '{sessions}'"));
    let connections = metric(admin, "imapool_upstream_connections{").await;
    let budget = format!("document.querySelector('#budget-in-use').innerText === '{connections}'");
    browser.until("connections agree", &budget);
    let evicted = metric(admin, "imapool_upstream_retired_total{backend=\"main\",reason=\"evicted\"}").await;
    assert!(evicted > 0);
    let rows = browser.text("#retired");
    let shown = rows.lines().find(|line| line.starts_with("evicted")).unwrap_or_else(|| panic!("{rows}"));
    assert_eq!(digits(shown), evicted, "{rows}");
    let ports = metric(admin, "imapool_ports_in_use{").await;
    assert_eq!(digits(&browser.text("#ports-in-use")), ports);
}
