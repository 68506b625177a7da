//! What a config holds that a journal must not.

/// The message with its quoted value made fit for a journal: serde quotes what it refuses, and that
/// may be an address with a password in it. Not left out altogether, because a host in the wrong
/// place is found by its name.
pub(super) fn without_secrets(message: &str) -> String {
    let begin = message.find(['"', '`']).map_or(0, |quote| quote + 1);
    // The last one that "expected" follows, as the value itself may hold quotes.
    let end = ["\", expected", "`, expected"].iter().filter_map(|text| message.rfind(text)).max();
    let end = end.or_else(|| message.rfind(['"', '`'])).filter(|end| *end > begin);
    let (head, rest) = message.split_at(begin);
    let (value, tail) = rest.split_at(end.unwrap_or(message.len()) - begin);
    format!("{head}{}{tail}", without_user_and_query(value))
}

/// What stands before the last `@` goes, not before the first: a password may hold one.
pub(super) fn without_user_and_query(value: &str) -> String {
    let scheme = value.find("://").map(|at| at + "://".len());
    let (scheme, rest) = value.split_at(scheme.unwrap_or(0));
    let rest = match rest.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => rest.to_owned(),
    };
    match rest.split_once('?') {
        Some((address, _)) if !scheme.is_empty() => format!("{scheme}{address}?***"),
        _ => format!("{scheme}{rest}"),
    }
}
