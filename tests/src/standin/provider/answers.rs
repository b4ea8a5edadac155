//! Requests and their answers.

use super::Provider;
use super::state::Machine;
use crate::standin::http::{self, Answer};
use crate::standin::outside::{Told, hang_up, page_for_people};
use crate::standin::trouble::{self, Trouble, What};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

const PER_PAGE: usize = 15;
const ROOT: &str = "/api/vps/v1/virtual-machines";

/// Answers one request, or never.
pub(super) async fn answer(me: Provider, request: Request<Incoming>) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let page = request
        .uri()
        .query()
        .and_then(|q| q.strip_prefix("page="))
        .and_then(|p| p.parse().ok())
        .unwrap_or(1);
    let named = request.headers().contains_key(USER_AGENT);
    let bearer = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let body = http::body(request)
        .await
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .unwrap_or_default();
    let told = Told::now(format!("{method} {path}"), body.clone());
    let (number, trouble, token) = {
        let mut state = me.state();
        state.asked.push(told);
        let met = trouble::meet(&mut state.troubles, method == Method::GET);
        (state.asked.len() - 1, met, state.token.clone())
    };
    let answered = if !named {
        // What stands in front of the interface, not the interface.
        page_for_people(403)
    } else if bearer != format!("Bearer {token}") {
        error(401, "Unauthenticated")
    } else {
        match trouble {
            Some(trouble) => {
                if trouble.granted {
                    drop(route(&me, &method, &path, page, &body));
                }
                instead(trouble).await
            }
            None => route(&me, &method, &path, page, &body),
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
        What::Status(401) => error(401, "Unauthenticated"),
        What::Status(422) => http::json(
            StatusCode::UNPROCESSABLE_ENTITY,
            &json!({"message": "The template id field is required.", "errors": {"template_id": ["The template id field is required."]},
                "correlation_id": "26a91bd9-f8c8-4a83-9df9-83e23d696fe3"}),
        ),
        What::Status(status) => error(status, "Error message"),
        What::Busy(after) => {
            let mut answer = error(429, "Too Many Attempts.");
            if let Some(after) = after {
                answer.headers_mut().insert("retry-after", HeaderValue::from_static(after));
            }
            answer
        }
        What::Html(status) => page_for_people(status),
        What::Nonsense => {
            http::json(StatusCode::OK, &json!({"data": "of another form", "id": "x"}))
        }
        What::Hangup => hang_up(),
        What::Silence(span) => {
            tokio::time::sleep(span).await;
            error(504, "Gateway Time-out")
        }
    }
}

fn route(me: &Provider, method: &Method, path: &str, page: usize, body: &str) -> Answer {
    let Some(rest) = path.strip_prefix(ROOT) else { return error(404, "Not found") };
    let parts: Vec<&str> = rest.split('/').filter(|p| !p.is_empty()).collect();
    let Some((id, rest)) = parts.split_first() else {
        return match *method {
            Method::GET => {
                let machines: Vec<Value> =
                    me.state().machines.iter().map(Machine::document).collect();
                http::json(StatusCode::OK, &json!(machines))
            }
            // This is how one is bought: whoever gets here has cost his owner money.
            _ => error(402, "a purchase"),
        };
    };
    let Ok(id) = id.parse::<u64>() else { return error(404, "Not found") };
    let Some(machine) = me.state().machines.iter().find(|m| m.id == id).cloned() else {
        return error(404, "Virtual machine not found");
    };
    match (method.as_str(), rest) {
        ("GET", []) => http::json(StatusCode::OK, &machine.document()),
        ("GET", ["actions"]) => actions(me, id, page),
        ("GET", ["actions", action]) => {
            match me.state().actions.iter().find(|a| a.id.to_string() == **action) {
                Some(action) => http::json(StatusCode::OK, &action.document()),
                None => error(404, "Action not found"),
            }
        }
        ("POST", ["restart"]) => wish(me, machine, "restart"),
        ("POST", ["recovery"]) => match body.contains("root_password") {
            true => wish(me, machine, "recovery"),
            false => error(422, "The root password field is required."),
        },
        ("DELETE", ["recovery"]) => match machine.state == "recovery" {
            true => wish(me, machine, "recovery-end"),
            false => error(422, "The virtual machine is not in recovery mode."),
        },
        ("POST", ["recreate"]) => match body.contains("template_id") {
            true => wish(me, machine, "recreate"),
            false => error(422, "The template id field is required."),
        },
        _ => error(404, "Not found"),
    }
}

fn actions(me: &Provider, id: u64, page: usize) -> Answer {
    let state = me.state();
    let all: Vec<Value> = state
        .actions
        .iter()
        .rev()
        .filter(|a| a.machine == id)
        .map(super::state::Action::document)
        .collect();
    let of_page: Vec<&Value> =
        all.iter().skip((page.max(1) - 1) * PER_PAGE).take(PER_PAGE).collect();
    let meta = json!({"current_page": page, "per_page": PER_PAGE, "total": all.len()});
    http::json(StatusCode::OK, &json!({"data": of_page, "meta": meta}))
}

/// Begins an action; what it does is done on a thread of its own, and takes as long as it takes.
fn wish(me: &Provider, machine: Machine, what: &'static str) -> Answer {
    let mut state = me.state();
    if machine.locked {
        return error(422, "The virtual machine is locked.");
    }
    let action = state.begin(machine.id, &format!("ct_{}", what.replace('-', "_")), "created");
    let (lies, fails, hand) = (state.lies, state.fails, state.hand.clone());
    let document = state.actions.last().map(super::state::Action::document).unwrap_or_default();
    drop(state);
    let (id, me) = (machine.id, me.clone());
    me.change(id, |m| m.locked = true);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        me.state().set(action, "sent");
        let done = match (fails, lies) {
            (true, _) => Err("it was told to fail".to_owned()),
            (false, true) => Ok(()),
            (false, false) => {
                me.change(id, |m| {
                    m.state = if what == "recreate" { "recreating" } else { "stopping" }.to_owned();
                });
                hand(what, &machine)
            }
        };
        me.change(id, |m| {
            m.locked = false;
            m.state =
                if what == "recovery" && done.is_ok() { "recovery" } else { "running" }.to_owned();
        });
        me.state().set(action, if done.is_ok() { "success" } else { "error" });
    });
    http::json(StatusCode::OK, &document)
}

fn error(status: u16, message: &str) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    http::json(
        status,
        &json!({"message": message, "correlation_id": "26a91bd9-f8c8-4a83-9df9-83e23d696fe3"}),
    )
}
