//! Lines in a frame, as SVG. Colours come from the page's style, so that they follow light and dark.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 40.0;
/// Ticks that an axis has at most, roughly.
const TICKS: f64 = 6.0;
/// Up to so many points are also dots: a line through one point shows nothing.
const DOTS_MAX: usize = 60;
const COLOURS: usize = 3;

/// A line and its name in the legend.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// An axis from `from` to `to`.
#[derive(Debug)]
pub(super) struct Axis {
    name: &'static str,
    from: f64,
    to: f64,
    is_logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to somewhat above `most`.
    pub(super) fn linear(name: &'static str, most: f64) -> Self {
        let most = if most.is_finite() && most > 0.0 {
            most
        } else {
            1.0
        };
        let step = round_step(most / TICKS);
        let (mut ticks, mut at, mut number) = (Vec::new(), 0.0, 0.0);
        while at <= most * 1.000_001 {
            ticks.push((at, tick_text(at)));
            number += 1.0;
            at = number * step;
        }
        Self {
            name,
            from: 0.0,
            to: most * 1.02,
            is_logarithmic: false,
            ticks,
        }
    }

    /// From 0 to `to`, with ticks of their own.
    pub(super) const fn named(name: &'static str, to: f64, ticks: Vec<(f64, String)>) -> Self {
        Self {
            name,
            from: 0.0,
            to,
            is_logarithmic: false,
            ticks,
        }
    }

    /// By powers of ten, over what lies between `least` and `most`.
    pub(super) fn logarithmic(name: &'static str, least: f64, most: f64) -> Self {
        let least = if least.is_finite() {
            least.max(1e-3)
        } else {
            1e-3
        };
        let from = least.min(most).max(1e-3) / 1.15;
        let to = most.max(from * 2.0) * 1.15;
        let mut ticks = Vec::new();
        let mut power = 10_f64.powf(from.log10().floor());
        while power <= to {
            for digit in [1.0, 2.0, 5.0] {
                let at = power * digit;
                if at >= from && at <= to {
                    ticks.push((at, tick_text(at)));
                }
            }
            power *= 10.0;
        }
        Self {
            name,
            from,
            to,
            is_logarithmic: true,
            ticks,
        }
    }

    /// Where `value` lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let place = if self.is_logarithmic {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        if place.is_finite() {
            place.clamp(0.0, 1.0)
        } else {
            0.0
        }
    }
}

/// 1, 2 or 5 times a power of ten, not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let of_power = step / power;
    let round = [1.0, 2.0, 5.0].into_iter().find(|round| of_power <= *round);
    round.unwrap_or(10.0) * power
}

fn tick_text(value: f64) -> String {
    let text = match value {
        1_000_000.0.. => format!("{:.2}", value / 1e6),
        10_000.0.. => format!("{:.1}", value / 1e3),
        10.0.. => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    };
    let unit = match value {
        1_000_000.0.. => " M",
        10_000.0.. => " k",
        _ => "",
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

/// A drawing.
#[derive(Debug)]
pub(super) struct Plot {
    /// What it shows, for who cannot see it.
    pub(super) label: &'static str,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
}

impl Plot {
    pub(super) fn svg(&self) -> String {
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            self.label
        );
        self.frame(&mut svg);
        for (number, line) in self.lines.iter().enumerate() {
            let colour = number % COLOURS;
            let mut path = String::new();
            for (number, point) in line.points.iter().enumerate() {
                let (x, y) = self.place(*point);
                let verb = if number == 0 { 'M' } else { 'L' };
                let _infallible = write!(path, "{verb}{x:.1} {y:.1}");
            }
            let _infallible = write!(svg, "<path class=\"plot c{colour}\" d=\"{path}\"/>");
            if line.points.len() <= DOTS_MAX {
                for point in &line.points {
                    let (x, y) = self.place(*point);
                    let _infallible = write!(
                        svg,
                        "<circle class=\"dot c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"><title>{}: {} {}</title></circle>",
                        line.name,
                        tick_text(point.1),
                        self.y.name
                    );
                }
            }
        }
        self.legend(&mut svg);
        svg.push_str("</svg>");
        svg
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        (
            LEFT + width * self.x.place(x),
            TOP + height * (1.0 - self.y.place(y)),
        )
    }

    /// Grid, ticks and the axes' names.
    fn frame(&self, svg: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut text_at = f64::MAX;
        for (at, text) in &self.y.ticks {
            let (_, y) = self.place((0.0, *at));
            let _infallible = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
            // Of ticks that lie close only one is named.
            if text_at - y < 15.0 {
                continue;
            }
            text_at = y;
            let _infallible = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
        for (at, text) in &self.x.ticks {
            let (x, _) = self.place((*at, 0.0));
            let _infallible = write!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                bottom + 18.0
            );
        }
        let _infallible = write!(
            svg,
            "<path class=\"axis\" fill=\"none\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\
             <text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"4\" y=\"16\">{}</text>",
            HEIGHT - 6.0,
            self.x.name,
            self.y.name
        );
    }

    /// Names, where there is more than one line.
    fn legend(&self, svg: &mut String) {
        if self.lines.len() < 2 {
            return;
        }
        let mut x = LEFT + 16.0;
        for (number, line) in self.lines.iter().enumerate() {
            let colour = number % COLOURS;
            let _infallible = write!(
                svg,
                "<line class=\"plot c{colour}\" x1=\"{x:.1}\" x2=\"{:.1}\" y1=\"12\" y2=\"12\"/>\
                 <text x=\"{:.1}\" y=\"16\">{}</text>",
                x + 18.0,
                x + 24.0,
                line.name
            );
            let letters = u32::try_from(line.name.chars().count()).unwrap_or(10);
            x += 24.0 + 7.0 * f64::from(letters) + 20.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_are_round_numbers() {
        let ticks = |axis: &Axis| {
            let texts = axis.ticks.iter().map(|(_, text)| text.clone());
            texts.collect::<Vec<_>>()
        };
        assert_eq!(
            ticks(&Axis::linear("s", 10.0)),
            ["0", "2", "4", "6", "8", "10"]
        );
        assert_eq!(
            ticks(&Axis::linear("s", 0.9)),
            ["0", "0.2", "0.4", "0.6", "0.8"]
        );
        assert_eq!(
            ticks(&Axis::linear("s", 52_000.0)),
            ["0", "10 k", "20 k", "30 k", "40 k", "50 k"]
        );
        assert_eq!(
            ticks(&Axis::logarithmic("ms", 0.3, 12.0)),
            ["0.5", "1", "2", "5", "10"]
        );
        assert_eq!(tick_text(1_250_000.0), "1.25 M");
        assert_eq!(tick_text(100.0), "100");
    }

    proptest! {
        /// Whatever was measured: few ticks, and every point within the frame.
        #[test]
        fn nothing_is_drawn_outside_of_the_frame(
            points in proptest::collection::vec((0.0..1e5_f64, 0.0..1e12_f64), 0..40),
            logarithmic: bool,
        ) {
            let most = points.iter().fold(0.0, |most: f64, point| most.max(point.1));
            let least = points.iter().fold(f64::MAX, |least: f64, point| least.min(point.1));
            let y = if logarithmic { Axis::logarithmic("ms", least, most) } else { Axis::linear("ms", most) };
            prop_assert!(y.ticks.len() < 60);
            let plot = Plot {
                label: "x",
                x: Axis::linear("s", points.iter().fold(0.0, |most: f64, point| most.max(point.0))),
                y,
                lines: vec![Line { name: "a", points: points.clone() }],
            };
            for point in points {
                let (x, y) = plot.place(point);
                prop_assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{}", x);
                prop_assert!((TOP..=HEIGHT - BOTTOM).contains(&y), "{}", y);
            }
            prop_assert!(!plot.svg().contains("NaN"));
        }
    }
}
