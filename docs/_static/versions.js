// Fill the menu of versions from switcher.json: that of the folder where versions lie side by side, or this site's own.
// Addresses in it are relative to it. Opened from a file, a page may fetch nothing: the menu then has its own version.
document.addEventListener("DOMContentLoaded", async () => {
  const switchers = document.querySelectorAll(".version-switcher__container[data-root]");
  if (!switchers.length || location.protocol === "file:") return;
  const { root, version, page } = switchers[0].dataset;
  const site = new URL(root || "./", location.href);
  for (const address of [new URL("../switcher.json", site), new URL("switcher.json", site)]) {
    const answer = await fetch(address).catch(() => null);
    if (!answer || !answer.ok) continue;
    const versions = await answer.json().catch(() => null);
    if (!Array.isArray(versions) || !versions.some((each) => each.version === version)) continue;
    switchers.forEach((switcher) => fill(switcher, versions, address, version, page));
    return;
  }
});

function fill(switcher, versions, address, version, page) {
  const items = versions.map((each) => {
    const item = document.createElement("a");
    const active = each.version === version;
    item.className = "dropdown-item list-group-item list-group-item-action py-1" + (active ? " active" : "");
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", active);
    item.textContent = each.name || each.version;
    item.href = new URL(each.url, address);
    // to the same page of that version, where it has one
    item.addEventListener("click", async (event) => {
      event.preventDefault();
      const same = new URL(page, item.href);
      const found = await fetch(same, { method: "HEAD" }).catch(() => null);
      location.href = found && found.ok ? same : item.href;
    });
    return item;
  });
  switcher.querySelector(".version-switcher__menu").replaceChildren(...items);
}
