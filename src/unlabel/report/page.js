"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const hidden = new Set();
  const drawn = new Set();
  const coarse = matchMedia("(pointer: coarse)").matches;

  const tone = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (place) => tone(place < 0 ? "--quiet" : `--c${place % 8}`);

  const axis = (given = {}) => ({
    automargin: true,
    gridcolor: tone("--line"),
    linecolor: tone("--line"),
    zeroline: false,
    fixedrange: coarse,
    ...given,
    title: { standoff: 8, ...given.title },
  });

  const layout = (given) => ({
    ...given,
    height: 250,
    margin: { l: 44, r: 12, t: 8, b: 40 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    showlegend: false,
    hovermode: "closest",
    dragmode: coarse ? false : "zoom",
    font: { family: tone("--sans"), size: 12, color: tone("--muted") },
    hoverlabel: {
      bgcolor: tone("--paper"),
      bordercolor: tone("--line"),
      font: { family: tone("--sans"), size: 13, color: tone("--ink") },
      align: "left",
    },
    xaxis: axis({ nticks: 5, ...given.xaxis }),
    yaxis: axis({ nticks: 5, ...given.yaxis }),
  });

  const trace = (given) => {
    const place = given.meta.colour;
    const paint = colour(place);
    return {
      ...given,
      visible: !hidden.has(place),
      line: { width: given.mode === "lines" ? 1.25 : 2, ...given.line, color: paint },
      ...(given.meta.band && { fillcolor: `${paint}26` }),
      marker: { size: given.error_y ? 8 : 5, ...given.marker, color: paint },
      ...(given.error_y && {
        error_y: { ...given.error_y, color: paint, thickness: 1.25, width: 3 },
      }),
    };
  };

  const draw = (id) => {
    drawn.add(id);
    const { data, layout: given } = figures[id];
    Plotly.react(id, data.map(trace), layout(given), { responsive: true, displayModeBar: false });
  };
  const drawAgain = () => drawn.forEach(draw);

  // A figure is drawn when it comes near: folded ones have no width before they are opened.
  const near = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        draw(target.id);
      }
    },
    { rootMargin: "400px" },
  );
  document.querySelectorAll(".canvas").forEach((canvas) => near.observe(canvas));

  document.querySelectorAll(".subjects button").forEach((button) => {
    button.addEventListener("click", () => {
      const place = Number(button.dataset.colour);
      const show = hidden.has(place);
      if (show) hidden.delete(place);
      else hidden.add(place);
      button.setAttribute("aria-pressed", String(show));
      drawAgain();
    });
  });

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAgain);
  addEventListener("beforeprint", () => Object.keys(figures).forEach(draw));
})();
