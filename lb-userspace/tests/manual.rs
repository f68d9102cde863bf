//! The manual says what the program does: `docs/guide/errors.md` is made from the lists of codes and reasons, and the
//! other pages name every command, flag and key. `UPDATE_MANUAL=1 cargo test -p lb-userspace --test manual` writes it.

use std::path::PathBuf;

use lb_common::reason::{Class, Reason};
use lb_control::code::Code;
use lb_userspace::cli;
use lb_userspace::config::schema::{self, Kind, Table};

fn page(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/guide").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(page(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_code_and_reason_is_in_the_manual() {
    let wanted = errors();
    if std::env::var_os("UPDATE_MANUAL").is_some() {
        std::fs::write(page("errors.md"), &wanted).unwrap();
    }
    assert_eq!(read("errors.md"), wanted, "UPDATE_MANUAL=1 writes the page");
}

fn errors() -> String {
    let mut text = String::from(
        "# Errors and reasons\n\n\
         Every error has a stable code. `lb explain LB1002` prints its line from here; over HTTP it is in `error.code`.\n\
         The page is made from the lists in the source; a test keeps it so.\n\n\
         Exit status of `lb`: 0 done, 1 error, 2 wrong usage or file, 3 `lb plan` found differences, 4 something that must\n\
         be so first is not, 5 `--wait` waited too long, 6 unhealthy (`lb status --check`, `lb selftest`).\n",
    );
    let ranges = [
        (1_000, "Commands: what was asked for cannot be"),
        (2_000, "The plan: a table of the data plane is full"),
        (3_000, "Files and requests"),
        (4_000, "The environment: kernel, rights, devices"),
        (5_000, "The daemon"),
    ];
    for (first, title) in ranges {
        text += &format!("\n## {title}\n\n| Code | Meaning | What to do |\n|---|---|---|\n");
        let within = |code: &&Code| (first..first + 1_000).contains(&code.number());
        for code in Code::ALL.iter().filter(within) {
            text += &format!("| {code} | {} | {} |\n", cell(code.short()), cell(code.advice()));
        }
    }
    for (class, title) in [
        (Class::Drop, "Reasons: dropped"),
        (Class::Forward, "Reasons: sent on or answered"),
        (Class::Pass, "Reasons: passed to the node's own network stack"),
    ] {
        text += &format!("\n## {title}\n\n| Reason | Meaning and what to do |\n|---|---|\n");
        for reason in Reason::ALL.iter().filter(|reason| reason.class() == class) {
            text += &format!("| {} | {} |\n", reason.name(), cell(reason.text()));
        }
    }
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[test]
fn every_command_and_flag_is_in_the_manual() {
    let text = read("cli.md");
    let mut missing = Vec::new();
    for command in cli::grammar().get_subcommands().filter(|command| command.get_name() != "help") {
        check_command(&text, "lb", command, &mut missing);
    }
    assert!(missing.is_empty(), "docs/guide/cli.md does not name {missing:#?}");
}

fn check_command(text: &str, before: &str, command: &clap::Command, missing: &mut Vec<String>) {
    let name = format!("{before} {}", command.get_name());
    let inner: Vec<&clap::Command> = command.get_subcommands().filter(|c| c.get_name() != "help").collect();
    if inner.is_empty() && !text.contains(&name) {
        missing.push(name.clone());
    }
    for argument in command.get_arguments() {
        if let Some(long) = argument.get_long().filter(|long| *long != "help")
            && !text.contains(&format!("--{long}"))
        {
            missing.push(format!("{name} --{long}"));
        }
    }
    inner.into_iter().for_each(|command| check_command(text, &name, command, missing));
}

#[test]
fn every_key_is_in_the_manual() {
    let text = read("config.md");
    let mut missing = Vec::new();
    check_table(&text, &schema::FILE, &mut missing);
    assert!(missing.is_empty(), "docs/guide/config.md does not name {missing:#?}");
}

fn check_table(text: &str, table: &Table, missing: &mut Vec<String>) {
    for key in table.keys {
        match &key.kind {
            Kind::Table(inner) | Kind::List(inner) => check_table(text, inner, missing),
            Kind::OneOf(words) => {
                let absent = words.iter().filter(|word| !text.contains(&format!("`\"{word}\"`")));
                missing.extend(absent.map(|word| format!("{} = {word}", key.name)));
            }
            _ => {}
        }
        if !text.contains(&format!("`{}`", key.name)) {
            missing.push(key.name.to_owned());
        }
    }
}
