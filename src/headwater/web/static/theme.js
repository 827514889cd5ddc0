// Before the first paint: the theme that was chosen here before.
const chosen = localStorage.getItem("headwater-theme");
if (chosen) document.documentElement.dataset.theme = chosen;
