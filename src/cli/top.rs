//! `imapool top`: who is busy, live in a terminal.

use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Gauge, Paragraph, Row, Table};
use serde_json::Value;

use super::client::Client;
use super::lists::{VIEWS, View};
use super::status::{clean, milliseconds};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a key is waited for.
const TICK: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Screen {
    view: usize,
    sort: usize,
    filter: String,
    /// The filter is being typed.
    typing: bool,
    first: usize,
    summary: Value,
    rows: Value,
    error: Option<String>,
}

/// Shows it until `q` or Ctrl-C.
///
/// # Errors
/// When imapool cannot be reached at first, or there is no terminal.
pub(crate) fn run(runtime: &tokio::runtime::Runtime, client: &Client) -> anyhow::Result<()> {
    let mut screen = Screen::default();
    runtime.block_on(screen.look(client))?;
    let mut terminal = ratatui::try_init()?;
    let result = show(&mut terminal, runtime, client, &mut screen);
    ratatui::restore();
    result
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    runtime: &tokio::runtime::Runtime,
    client: &Client,
    screen: &mut Screen,
) -> anyhow::Result<()> {
    let mut looked = Instant::now();
    loop {
        terminal.draw(|frame| screen.draw(frame, client))?;
        let mut changed = false;
        if event::poll(TICK)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            match screen.key(key) {
                Some(look_again) => changed = look_again,
                None => return Ok(()),
            }
        }
        if changed || looked.elapsed() >= PERIOD {
            screen.error = runtime.block_on(screen.look(client)).err().map(|error| error.to_string());
            looked = Instant::now();
        }
    }
}

impl Screen {
    async fn look(&mut self, client: &Client) -> anyhow::Result<()> {
        let view = &VIEWS[self.view];
        let filter = utf8_percent_encode(&self.filter, NON_ALPHANUMERIC);
        let call = format!("{}?sort={}&filter={filter}&offset={}&limit=200", view.call, self.sort(), self.first);
        self.summary = client.get("summary").await?;
        self.rows = client.get(&call).await?;
        Ok(())
    }

    /// The key that the list is sorted by.
    fn sort(&self) -> &'static str {
        let sorts = VIEWS[self.view].sorts;
        sorts[self.sort % sorts.len()]
    }

    /// `None`: enough seen; else whether to look again at once.
    fn key(&mut self, key: KeyEvent) -> Option<bool> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return None;
        }
        if self.typing {
            match key.code {
                KeyCode::Char(char) => self.filter.push(char),
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Esc => {
                    self.filter.clear();
                    self.typing = false;
                }
                _ => self.typing = false,
            }
            self.first = 0;
            return Some(true);
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return None,
            KeyCode::Tab => {
                self.view = (self.view + 1) % VIEWS.len();
                (self.sort, self.first) = (0, 0);
            }
            KeyCode::Char('s') => self.sort += 1,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Down | KeyCode::Char('j') => self.first += 1,
            KeyCode::Up | KeyCode::Char('k') => self.first = self.first.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.first += 20,
            KeyCode::PageUp => self.first = self.first.saturating_sub(20),
            KeyCode::Home => self.first = 0,
            _ => return Some(false),
        }
        let total = usize::try_from(self.rows["total"].as_u64().unwrap_or_default()).unwrap_or(usize::MAX);
        self.first = self.first.min(total.saturating_sub(1));
        Some(true)
    }

    fn draw(&self, frame: &mut Frame<'_>, client: &Client) {
        let areas = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(3),
            Constraint::Length(1),
        ]);
        let [head, gauge, gap, list, foot] = areas.areas(frame.area());
        frame.render_widget(Paragraph::new(self.head(client)), head);
        frame.render_widget(self.gauge(), gauge);
        let view = &VIEWS[self.view];
        let total = self.rows["total"].as_u64().unwrap_or_default();
        let title = match view.call {
            "backends" => String::from("backends"),
            call => format!("{total} {call}, by {}, from {}", self.sort(), self.first + 1),
        };
        frame.render_widget(Line::from(title).bold(), gap);
        frame.render_widget(self.table(view), list);
        frame.render_widget(Paragraph::new(self.foot()), foot);
    }

    fn head(&self, client: &Client) -> Vec<Line<'static>> {
        let summary = &self.summary;
        let rate = |key: &str| summary["rates"][key].as_f64().unwrap_or_default();
        let state = clean(summary["state"].as_str().unwrap_or("?"));
        let state = if summary["ready"] == true { state.green() } else { state.red().bold() };
        let reuse = summary["reuse_ratio"].as_f64().map_or("-".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0));
        let title = format!("imapool {} at {}: ", clean(summary["version"].as_str().unwrap_or("?")), client.address);
        let numbers = format!(
            "{} sessions, {:.1} logins/s, {:.1} commands/s, {reuse} reused, login p99 {}, checkout p99 {}",
            summary["sessions"]["open"],
            rate("logins"),
            rate("commands"),
            milliseconds(&summary["login_seconds"]["p99"]),
            milliseconds(&summary["checkout_seconds"]["p99"]),
        );
        vec![Line::from(vec![title.into(), state]), Line::from(numbers)]
    }

    fn gauge(&self) -> Gauge<'static> {
        let budget = &self.summary["upstream"]["budget"];
        let [in_use, capacity] = ["in_use", "capacity"].map(|key| budget[key].as_f64().unwrap_or_default());
        let ratio = if capacity > 0.0 { (in_use / capacity).clamp(0.0, 1.0) } else { 0.0 };
        let style = if ratio > 0.8 { Style::new().red() } else { Style::new().green() };
        Gauge::default().gauge_style(style).ratio(ratio).label(format!("{in_use} of {capacity} upstream connections"))
    }

    fn table(&self, view: &View) -> Table<'static> {
        let rows = self.rows["rows"].as_array().into_iter().flatten();
        let rows = rows.map(|row| Row::new(view.cells(row)));
        let widths = view.columns.iter().map(|(.., width)| Constraint::Length(*width));
        let titles = Row::new(view.columns.iter().map(|(title, ..)| *title));
        Table::new(rows, widths).header(titles.style(Style::new().add_modifier(Modifier::REVERSED)))
    }

    fn foot(&self) -> Line<'static> {
        if let Some(error) = &self.error {
            return Line::from(clean(error)).red();
        }
        if self.typing || !self.filter.is_empty() {
            let cursor = if self.typing { "_" } else { "  (/ to change it)" };
            return Line::from(format!("filter: {}{cursor}", clean(&self.filter))).bold();
        }
        Line::from("Tab next list   s sort   / filter   arrows scroll   q quit").dim()
    }
}
