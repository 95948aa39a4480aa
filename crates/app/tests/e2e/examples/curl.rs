//! The program `curl`, as a user's shell runs it.
//!
//! Invariant: what is added to a documented command is the server's address, the caller's token, and that the head of
//! the answer is shown.

use std::process::Command;

use serde_json::{Value, json};

/// Somebody who uses the program `curl`.
pub(super) struct Curl {
    pub(super) at: String,
    pub(super) token: Option<String>,
}

/// What it was answered.
pub(super) struct Answer {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Curl {
    /// Runs a command as it stands in a document, with this server's address, and the token where there is one.
    pub(super) fn run(&self, command: &str) -> Answer {
        let text = self.shell(command, "-i");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{command}: {text}"));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        Answer {
            status: status.parse().unwrap(),
            headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
            body: body.to_owned(),
        }
    }

    /// What a command prints, by a shell as its user's would run it.
    fn shell(&self, command: &str, options: &str) -> String {
        let credential = self.token.as_ref().map(|token| format!("-H 'Authorization: Bearer {token}'"));
        let program = format!("curl -sS --noproxy '*' {options} {}", credential.unwrap_or_default());
        let command = command.replacen("curl", &program, 1).replace("http://localhost:8080", &self.at);
        let out = Command::new("/bin/sh").args(["-c", &command]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        // 28: what was opened by a handshake stays open until the time that was given is over.
        let ended = out.status.success() || out.status.code() == Some(28);
        assert!(ended, "{command}: {} {text}", String::from_utf8_lossy(&out.stderr));
        text
    }

    pub(super) fn ask(&self, method: &str, path: &str) -> Answer {
        self.run(&format!("curl -X {method} 'http://localhost:8080{path}'"))
    }

    /// What so many calls of a path answer, one after the other on one connection.
    pub(super) fn statuses(&self, path: &str, times: usize) -> Vec<String> {
        let urls = format!(" -o /dev/null 'http://localhost:8080{path}'").repeat(times);
        let text = self.shell(&format!("curl{urls}"), "-w '%{http_code}\\n'");
        text.lines().map(str::to_owned).collect()
    }

    /// A new token with a role; an empty one is none.
    pub(super) fn made(&self, name: &str, role: &str) -> String {
        self.made_whole(name, role)["secret"].as_str().unwrap().to_owned()
    }

    pub(super) fn made_whole(&self, name: &str, role: &str) -> Value {
        let roles: Vec<&str> = Some(role).filter(|role| !role.is_empty()).into_iter().collect();
        let body = json!({"name": name, "roles": roles});
        let answer = self.run(&format!(
            "curl -X POST http://localhost:8080/tokens -H 'Content-Type: application/json' -d '{body}'"
        ));
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.json()
    }
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {}", self.body))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}
