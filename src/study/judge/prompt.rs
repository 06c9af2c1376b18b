//! The judge's one user message.

/// Puts the question and the answer into a judge prompt, in one pass: braces in the answer are text.
/// `question` is the user's text only, never the system prompt (as in the authors' code).
pub fn fill(prompt: &str, question: &str, answer: &str) -> String {
    let mut filled = String::with_capacity(prompt.len() + question.len() + answer.len());
    let mut rest = prompt;
    while let Some(brace) = rest.find('{') {
        let (before, from) = rest.split_at(brace);
        filled.push_str(before);
        rest = if let Some(after) = from.strip_prefix("{question}") {
            filled.push_str(question);
            after
        } else if let Some(after) = from.strip_prefix("{answer}") {
            filled.push_str(answer);
            after
        } else {
            filled.push('{');
            &from[1..]
        };
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn braces_in_answers_are_text() {
        let prompt = "Q: {question}\nA: {answer} {other} {";
        assert_eq!(
            fill(prompt, "{answer}?", "{question} {\"a\": 1}"),
            "Q: {answer}?\nA: {question} {\"a\": 1} {other} {"
        );
        assert_eq!(fill("{{answer}}", "q", "a"), "{a}");
    }
}
