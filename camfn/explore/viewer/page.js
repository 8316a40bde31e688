
// The page as a host: what is chosen stands in the address, and an address that changes is shown.
const state = { data: JSON.parse(document.getElementById("data").textContent) };
const heard = {};
const KEYS = ["photo", "target", "method", "layer", "slice", "colors"];
function read() {
  const words = new URLSearchParams(location.hash.slice(1));
  for (const key of KEYS) if (words.has(key)) state[key] = key === "slice" ? Number(words.get(key)) : words.get(key);
}
const model = {
  get: key => state[key],
  set: (key, value) => (state[key] = value),
  on: (key, act) => (heard[key] = act),
  save_changes: () => {
    const words = new URLSearchParams(KEYS.filter(key => state[key] !== undefined).map(key => [key, state[key]]));
    try {
      history.replaceState(null, "", "#" + words);
    } catch {} // in a frame without an address of its own
  },
};
read();
document.getElementById("command").textContent = state.data.command;
globalThis.camfn = render({ model, el: document.getElementById("viewer"), keys: document });
addEventListener("hashchange", () => {
  read();
  for (const key of KEYS) heard["change:" + key]?.();
});
