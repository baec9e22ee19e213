//! `why` as text.

use super::lists::{count, joined, place, placed_nodes};
use super::{Table, clean};
use devbroker::api::{KeyView, MatchView, WhyReply};
use std::fmt::Write;

/// The answer, from the sentence down to the keys.
pub(crate) fn why(reply: &WhyReply) -> String {
    let mut text = format!("{}: {}\n", clean(&reply.name), clean(&reply.summary));
    let mut section = |title: &str, body: String| {
        if !body.is_empty() {
            write!(text, "\n{title}\n{body}").ok();
        }
    };
    section("matches", reply.matches.iter().map(one_match).collect());
    section("grants", grants(reply));
    section("done", done(reply));
    section("failed", failed(reply));
    section("next", next(reply));
    let notes = reply.notes.iter().map(|note| format!("  {}\n", clean(note)));
    section("notes", notes.collect());
    text
}

fn one_match(one: &MatchView) -> String {
    let mut text = format!(
        "  {} {}: /dev/{}",
        if one.matched { "matched    " } else { "not matched" },
        one.alias,
        one.devname
    );
    if let Some(role) = &one.role {
        write!(text, " as {role}").ok();
    }
    let origin = place(one.origin.as_ref());
    if origin.is_empty() {
        text += " (by a udev rule)";
    } else {
        write!(text, " ({origin})").ok();
    }
    text.push('\n');
    let mut table = Table::bare(6);
    for key in &one.keys {
        table.row(key_cells(key));
    }
    text + &table.render()
}

fn key_cells(key: &KeyView) -> [String; 3] {
    [
        if key.matched { "yes" } else { "no" }.into(),
        format!("{} = {}", key.key, key.expected),
        match (&key.found, key.matched) {
            (Some(found), false) => format!("found {found}"),
            (Some(_), true) => String::new(),
            (None, _) => "found none".into(),
        },
    ]
}

fn grants(reply: &WhyReply) -> String {
    let mut table = Table::bare(2);
    for one in &reply.grants {
        let grant = &one.grant;
        table.row([
            if one.applies { "applies" } else { "does not apply" }.into(),
            format!("{} to {}", grant.alias, grant.container),
            grant.access.to_string(),
            place(Some(&grant.origin)),
            one.reason.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

fn done(reply: &WhyReply) -> String {
    let mut text = String::new();
    for one in &reply.done {
        writeln!(text, "  {} ({})", one.container, clean(&one.because)).ok();
        text += &placed_nodes(std::slice::from_ref(&one.node), 4);
    }
    text
}

fn failed(reply: &WhyReply) -> String {
    let mut text = String::new();
    for one in &reply.failed {
        let place = joined(one.container.as_ref());
        let place = if place.is_empty() { "host".into() } else { place };
        let again = match one.retry {
            Some(0) => "tried again now".to_owned(),
            Some(ms) if ms < 1000 => format!("tried again in {ms} ms"),
            Some(ms) => format!("tried again in {} s", ms.div_ceil(1000)),
            None => "not tried again until something changes".to_owned(),
        };
        writeln!(text, "  {place}: {}", clean(&one.action)).ok();
        writeln!(
            text,
            "    {} ({}; {again})",
            clean(&one.error),
            count(one.attempts, "attempt")
        )
        .ok();
    }
    text
}

fn next(reply: &WhyReply) -> String {
    let mut text = String::new();
    for one in &reply.next {
        let place = joined(one.container.as_ref());
        let place = if place.is_empty() { "host".into() } else { place };
        writeln!(text, "  {place}: {} ({})", clean(&one.action), clean(&one.when)).ok();
    }
    text
}
