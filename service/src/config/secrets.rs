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
        // That `@` stood in a query, and what follows it may be the secret.
        Some((_, query)) if is_query(query) => return format!("{scheme}***"),
        Some((_, host)) => format!("***@{host}"),
        None => rest.to_owned(),
    };
    match rest.split_once('?') {
        Some((address, _)) if !scheme.is_empty() => format!("{scheme}{address}?***"),
        _ => format!("{scheme}{rest}"),
    }
}

fn is_query(text: &str) -> bool {
    let host = text.split(['/', '?', '#']).next();
    host.is_some_and(|host| host.contains(['=', '&']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_password_nor_a_query_is_shown_whatever_signs_they_hold() {
        for value in [
            "rtsp://u:s3cr@h/live",
            "rtsp://u:s3cr@t@h/live?token=s3cr",
            "rtsp://h/live?user=a@b&password=s3cr",
            "rtsp://u:s3cr?t@h/live",
        ] {
            assert!(!without_user_and_query(value).contains("s3cr"), "{value}");
        }
        assert_eq!(without_user_and_query("rtsp://u:p@h/live"), "rtsp://***@h/live");
    }
}
