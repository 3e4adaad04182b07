// From logits to steady probabilities, as edge_stra/preprocess.py and edge_stra/apps/smoothing.py.

export function softmax(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** The exponential moving average in seconds; begins anew without a last state and after a gap. */
export function smooth(last, probabilities, time_s, { tau_s, gap_s }) {
  const passed_s = last === null ? Infinity : time_s - last.time_s;
  if (passed_s > gap_s) return { probabilities: [...probabilities], time_s };
  const weight = tau_s === 0 ? 1 : 1 - Math.exp(-passed_s / tau_s);
  return { probabilities: last.probabilities.map((p, i) => p + weight * (probabilities[i] - p)), time_s };
}

export const largest = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
