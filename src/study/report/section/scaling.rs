//! The rates over the sizes of the models.

use crate::model::cards;
use crate::study::analyze::Group;
use crate::study::report::figure::{Point, Series, scaling};
use crate::study::report::input::Report;
use crate::study::report::parts::{Csv, distinct, figure, rate};

/// The rates over the sizes of the models; nothing without two known sizes.
pub(in crate::study::report) fn section(html: &mut String, report: &Report) {
    let series = series(report);
    let sizes = distinct(series.iter().flat_map(|s| &s.points).map(|point| point.parameters));
    if sizes.len() < 2 {
        return;
    }
    html.push_str("<h2>Size of the model</h2>\n");
    let title = "Misaligned answers among those that count, by number of parameters";
    let trends = if series.iter().any(|series| series.trend.is_some()) {
        " Dashed: the logistic trend of each condition (its coefficients are under Comparisons)."
    } else {
        ""
    };
    let caption = format!("{title}; point at a mark for its model.{trends}");
    figure(html, &scaling(title, &series), &caption, &numbers(&series));
}

/// The models of known size under each condition.
pub(in crate::study::report) fn series(report: &Report) -> Vec<Series> {
    let series = |condition: &Group| {
        let name = condition.label.condition.clone().unwrap_or_default();
        let of = |group: &&Group| group.label.condition == condition.label.condition;
        let point = |group: &Group| {
            let model = group.label.model.clone()?;
            let parameters = cards::find(&model)?.parameters as f64;
            Some(Point { model, parameters, rate: group.misaligned_of_kept })
        };
        let fitted = report.summary.trends.conditions.iter().find(|trend| trend.condition == name);
        let terms = fitted.and_then(|trend| trend.logistic.as_ref()).map(|model| &model.terms[..]);
        Series {
            colour: report.colour(Some(&name)),
            points: report.summary.by_model_condition.iter().filter(of).filter_map(point).collect(),
            trend: match terms {
                Some([intercept, slope]) => Some((intercept.wald.coefficient, slope.wald.coefficient)),
                _ => None,
            },
            name,
        }
    };
    report.summary.by_condition.iter().map(series).collect()
}

/// The points of the scaling figure.
pub(in crate::study::report) fn numbers(series: &[Series]) -> Csv {
    let rows = series.iter().flat_map(|series| {
        series.points.iter().map(|point| {
            let mut row = vec![series.name.as_str().into(), point.model.as_str().into()];
            row.extend([point.parameters.into(), point.rate.n.into(), point.rate.k.into()]);
            row.extend(rate(point.rate));
            row
        })
    });
    let heads = ["condition", "model", "parameters", "kept", "misaligned", "rate", "low", "high"];
    Csv::new("scaling", &heads, rows)
}
