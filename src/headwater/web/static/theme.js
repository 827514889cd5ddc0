// Before the first paint: a page that was waited for has its own address again, and the theme is the one chosen before.
if (/[?&]watch=/.test(location.search)) history.replaceState(history.state, "", location.href.replace(/[?&]watch=[^&#]*/, ""));
const chosen = localStorage.getItem("headwater-theme");
if (chosen) document.documentElement.dataset.theme = chosen;
