// Figures as text: the same units as in plait's report.

export const NOTHING = "–";

const three = (value) => value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0).replace(/\B(?=(\d{3})+$)/g, ",");

export const bytes = (count) => {
  if (count == null) return NOTHING;
  for (const [size, unit] of [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]])
    if (count >= size) return `${three(count / size)} ${unit}`;
  return `${Math.round(count)} B`;
};

export const count = (value) => (value == null ? NOTHING : Math.round(value).toLocaleString("en"));

export const loss = (value) => (value == null ? NOTHING : value.toFixed(3));

export const change = (value) => (value == null ? NOTHING : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`);

export const times = (value) => (value == null || !isFinite(value) ? NOTHING : `${three(value)}×`);

// Clocks differ, and are set: no time is less than none.
export const duration = (said) => {
  if (said == null) return NOTHING;
  const seconds = Math.max(0, said);
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  if (whole < 172800) return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
  return `${(seconds / 86400).toFixed(1)} days`;
};

export const moment = (seconds) =>
  seconds == null ? NOTHING : new Date(seconds * 1000).toISOString().replace("T", " ").slice(0, 16) + " UTC";

// Names come from outside: what is not printable, or turns the direction of writing, becomes a space.
export const clean = (text, limit = 80) => {
  const one = String(text ?? "").replace(/[\p{C}\p{Zl}\p{Zp}]/gu, " ");
  return one.length > limit ? `${one.slice(0, limit - 1)}…` : one;
};
