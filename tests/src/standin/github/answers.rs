//! Requests and their answers.

use super::GitHub;
use super::state::{Issue, ME, State, label, user};
use crate::standin::http::{self, Answer};
use crate::standin::outside::{Told, hang_up, page_for_people};
use crate::standin::trouble::{self, Trouble, What};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, LINK, LOCATION, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

const DOCS: &str = "https://docs.github.com/rest";
const LONGEST: usize = 65_536;

/// One request, taken apart.
struct Asked {
    method: Method,
    path: String,
    query: String,
    host: String,
    body: String,
}

/// Answers one request, or never.
pub(super) async fn answer(me: GitHub, request: Request<Incoming>) -> Answer {
    let header = |name| {
        let value = request.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (named, bearer, host) =
        (!header(USER_AGENT).is_empty(), header(AUTHORIZATION), header(HOST));
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let body = http::body(request).await.unwrap_or_default();
    let asked = Asked {
        method,
        path: uri.path().to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        host,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let line = format!("{} {}", asked.method, asked.path);
    let (number, trouble, token) = {
        let mut state = me.state();
        state.asked.push(Told::now(line, asked.body.clone()));
        let met = trouble::meet(&mut state.troubles, asked.method == Method::GET);
        (state.asked.len() - 1, met, state.token.clone())
    };
    let answered = if !named {
        page_for_people(403)
    } else if bearer.is_empty() {
        // A private repository does not even admit that it is there.
        error(404, "Not Found")
    } else if bearer != format!("Bearer {token}") && bearer != format!("token {token}") {
        error(401, "Bad credentials")
    } else {
        match trouble {
            Some(trouble) => {
                if trouble.granted {
                    drop(route(&me, &asked));
                }
                instead(trouble).await
            }
            None => route(&me, &asked),
        }
    };
    if let Some(told) = me.state().asked.get_mut(number) {
        told.status = answered.status().as_u16();
    }
    answered
}

/// The wrong answer that was ordered.
async fn instead(trouble: Trouble) -> Answer {
    match trouble.what {
        What::Status(401) => error(401, "Bad credentials"),
        What::Status(422) => invalid("body", "missing_field"),
        What::Status(status) => error(status, "Server Error"),
        What::Busy(Some(after)) => {
            let mut answer = error(403, "You have exceeded a secondary rate limit. Please wait.");
            answer.headers_mut().insert("retry-after", HeaderValue::from_static(after));
            answer
        }
        What::Busy(None) => {
            let mut answer = error(403, "API rate limit exceeded for user ID 1.");
            let soon = jiff::Timestamp::now().as_second() + 2;
            let headers = answer.headers_mut();
            headers.insert("x-ratelimit-remaining", HeaderValue::from_static("0"));
            headers.insert("x-ratelimit-reset", HeaderValue::from(soon));
            answer
        }
        What::Html(status) => page_for_people(status),
        What::Nonsense => http::json(StatusCode::OK, &json!({"issue": "of another form"})),
        What::Hangup => hang_up(),
        What::Silence(span) => {
            tokio::time::sleep(span).await;
            error(504, "We couldn't respond to your request in time.")
        }
    }
}

fn route(me: &GitHub, asked: &Asked) -> Answer {
    let mut state = me.state();
    let parts: Vec<&str> = asked.path.split('/').filter(|p| !p.is_empty()).collect();
    if parts == ["user"] && asked.method == Method::GET {
        return http::json(StatusCode::OK, &user(ME));
    }
    let ["repos", owner, name, rest @ ..] = parts.as_slice() else {
        return error(404, "Not Found");
    };
    if !state.repository.eq_ignore_ascii_case(&format!("{owner}/{name}")) {
        return error(404, "Not Found");
    }
    if asked.method != Method::GET && state.read_only {
        return error(403, "Resource not accessible by personal access token");
    }
    match (asked.method.as_str(), rest) {
        ("GET", []) => {
            let push = !state.read_only;
            let full = state.repository.clone();
            let document = json!({"id": 1, "full_name": full, "private": true, "has_issues": true,
                "permissions": {"pull": true, "push": push, "triage": push, "admin": false}});
            http::json(StatusCode::OK, &document)
        }
        ("POST", ["labels"]) => new_label(&mut state, &asked.body),
        ("GET", ["labels", wanted]) => match state.labels.contains(*wanted) {
            true => http::json(StatusCode::OK, &label(&state.repository, wanted)),
            false => error(404, "Not Found"),
        },
        (_, ["issues", number, rest @ ..]) => {
            let Some(issue) = number.parse().ok().and_then(|n| state.find(n)).cloned() else {
                return error(404, "Not Found");
            };
            of_issue(&mut state, asked, &issue, rest)
        }
        _ => error(404, "Not Found"),
    }
}

fn of_issue(state: &mut State, asked: &Asked, issue: &Issue, rest: &[&str]) -> Answer {
    if issue.gone {
        return error(410, "This issue was deleted");
    }
    if let Some(there) = &issue.moved {
        let mut answer = error(301, "Moved Permanently");
        if let Ok(there) = HeaderValue::from_str(there) {
            answer.headers_mut().insert(LOCATION, there);
        }
        return answer;
    }
    let body: Value = serde_json::from_str(&asked.body).unwrap_or(Value::Null);
    if asked.method != Method::GET && asked.method != Method::DELETE && !body.is_object() {
        return error(400, "Problems parsing JSON");
    }
    match (asked.method.as_str(), rest) {
        ("GET", []) => http::json(StatusCode::OK, &state.document(issue)),
        ("PATCH", []) => patch(state, issue.number, &body),
        ("GET", ["comments"]) => {
            let documents = issue.comments.iter().map(|c| state.comment_document(issue.number, c));
            pages(asked, &documents.collect::<Vec<_>>())
        }
        ("POST", ["comments"]) => match body["body"].as_str() {
            _ if issue.locked => error(403, "Unable to create comment because issue is locked."),
            None | Some("") => invalid("body", "missing_field"),
            Some(text) if text.chars().count() > LONGEST => invalid("body", "custom"),
            Some(text) => match state.comment(issue.number, ME, text) {
                Some(comment) => {
                    http::json(StatusCode::CREATED, &state.comment_document(issue.number, &comment))
                }
                None => error(404, "Not Found"),
            },
        },
        ("GET", ["labels"]) => pages(asked, &labels(state, issue.number)),
        ("POST" | "PUT", ["labels"]) => {
            let Some(names) = names(&body) else { return invalid("labels", "invalid") };
            set_labels(state, issue.number, names, asked.method == Method::POST);
            http::json(StatusCode::OK, &json!(labels(state, issue.number)))
        }
        ("DELETE", ["labels", name]) => {
            if !issue.labels.iter().any(|l| l == name) {
                return error(404, "Label does not exist");
            }
            if let Some(issue) = state.find(issue.number) {
                issue.labels.retain(|l| l != name);
            }
            http::json(StatusCode::OK, &json!(labels(state, issue.number)))
        }
        _ => error(404, "Not Found"),
    }
}

fn patch(state: &mut State, number: u64, body: &Value) -> Answer {
    let (wanted, reason) = (body["state"].as_str(), body["state_reason"].as_str());
    if wanted.is_some_and(|s| s != "open" && s != "closed") {
        return invalid("state", "invalid");
    }
    if reason.is_some_and(|r| !["completed", "not_planned", "duplicate", "reopened"].contains(&r)) {
        return invalid("state_reason", "invalid");
    }
    if !body["labels"].is_null() {
        let Some(names) = names(body) else { return invalid("labels", "invalid") };
        set_labels(state, number, names, false);
    }
    let Some(issue) = state.find(number) else { return error(404, "Not Found") };
    if let Some(title) = body["title"].as_str() {
        title.clone_into(&mut issue.title);
    }
    // Without a change of state the reason stays what it was.
    if let Some(wanted) = wanted.filter(|w| *w != issue.state) {
        wanted.clone_into(&mut issue.state);
        let usual = if wanted == "closed" { "completed" } else { "reopened" };
        issue.state_reason = Some(reason.unwrap_or(usual).to_owned());
    }
    let issue = issue.clone();
    http::json(StatusCode::OK, &state.document(&issue))
}

/// `{"labels": ["a", {"name": "b"}]}`.
fn names(body: &Value) -> Option<Vec<String>> {
    let one = |l: &Value| l.as_str().or_else(|| l["name"].as_str()).map(str::to_owned);
    body["labels"].as_array()?.iter().map(one).collect()
}

/// What is set for the first time comes into being.
fn set_labels(state: &mut State, number: u64, names: Vec<String>, besides: bool) {
    state.labels.extend(names.iter().cloned());
    let Some(issue) = state.find(number) else { return };
    if !besides {
        issue.labels.clear();
    }
    for name in names {
        if !issue.labels.contains(&name) {
            issue.labels.push(name);
        }
    }
}

fn labels(state: &mut State, number: u64) -> Vec<Value> {
    let names = state.find(number).map(|i| i.labels.clone()).unwrap_or_default();
    names.iter().map(|name| label(&state.repository, name)).collect()
}

fn new_label(state: &mut State, body: &str) -> Answer {
    let body: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    let Some(name) = body["name"].as_str() else { return invalid("name", "missing_field") };
    if !state.labels.insert(name.to_owned()) {
        return invalid("name", "already_exists");
    }
    http::json(StatusCode::CREATED, &label(&state.repository, name))
}

/// One page of a list, with the way to its neighbours.
fn pages(asked: &Asked, all: &[Value]) -> Answer {
    let number = |key: &str| {
        let pairs = asked.query.split('&').filter_map(|p| p.split_once('='));
        pairs.filter(|(k, _)| *k == key).find_map(|(_, v)| v.parse::<usize>().ok())
    };
    let size = number("per_page").unwrap_or(30).clamp(1, 100);
    let page = number("page").unwrap_or(1).max(1);
    let last = all.len().div_ceil(size).max(1);
    let of_page: Vec<&Value> = all.iter().skip((page - 1) * size).take(size).collect();
    let mut answer = http::json(StatusCode::OK, &json!(of_page));
    let to = |page: usize, name: &str| {
        let at = format!("https://{}{}?per_page={size}&page={page}", asked.host, asked.path);
        format!("<{at}>; rel=\"{name}\"")
    };
    let mut ways = Vec::new();
    if page > 1 {
        ways.push(to(page - 1, "prev"));
    }
    if page < last {
        ways.extend([to(page + 1, "next"), to(last, "last")]);
    }
    if page > 1 {
        ways.push(to(1, "first"));
    }
    if let (false, Ok(value)) = (ways.is_empty(), HeaderValue::from_str(&ways.join(", "))) {
        answer.headers_mut().insert(LINK, value);
    }
    answer
}

fn error(status: u16, message: &str) -> Answer {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let status = status.to_string();
    http::json(code, &json!({"message": message, "documentation_url": DOCS, "status": status}))
}

fn invalid(field: &str, code: &str) -> Answer {
    http::json(
        StatusCode::UNPROCESSABLE_ENTITY,
        &json!({"message": "Validation Failed", "documentation_url": DOCS, "status": "422",
            "errors": [{"resource": "Issue", "field": field, "code": code}]}),
    )
}
