//! Lines in a frame.

use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::Outcome;

/// A line with its legend.
pub(crate) type Line = (&'static str, RGBColor, Vec<(f64, f64)>);

/// Draws lines to NAME.svg, where there is a folder for it. `names` are those of the axes.
pub(crate) fn draw<X, Y>(
    folder: Option<&Path>,
    (name, title): (&str, &str),
    names: [&str; 2],
    (x, y): (X, Y),
    lines: Vec<Line>,
) -> Outcome<()>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let Some(file) = folder.map(|folder| folder.join(name).with_extension("svg")) else {
        return Ok(());
    };
    let area = SVGBackend::new(&file, (820, 460)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(46)
        .y_label_area_size(72)
        .build_cartesian_2d(x, y)?;
    let label = |value: &f64| match value.abs() {
        size if size == 0.0 || (0.01..1e6).contains(&size) => {
            ((value * 100.0).round() / 100.0).to_string()
        }
        _ => format!("{value:.0e}"),
    };
    chart
        .configure_mesh()
        .x_desc(names[0])
        .y_desc(names[1])
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .light_line_style(WHITE)
        .draw()?;
    for (name, colour, points) in lines {
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    println!("  drawn to {}", file.display());
    Ok(())
}
