// Package chromium tests the page in a browser: what it looks like to somebody who sees it, to somebody
// who does not, and without JavaScript. It is a module of its own, so that what drives the browser is in
// no user's go.sum. scripts/install-chromium installs the browser.
//
// testdata has axe-core as npm distributes it (MPL 2.0), which finds faults of accessibility.
package chromium
