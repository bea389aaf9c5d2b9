package chromium_test

import (
	"context"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// keyboard: whoever has no mouse reaches everything by Tab, in the order of the page, sees where he is, and gets away
// again; messages are found, retried, edited and archived, an action is stopped, and a queue is paused.
func keyboard(ctx context.Context, t *testing.T) {
	x := newBench(ctx, t, nil)
	x.park(3, "Charge", "orders", "no money", `{"ID":7}`)
	x.park(5, "Refund", "orders", "no account", `{"ID":7}`)
	x.open("/errors")
	x.skips()
	x.walk("groups")
	x.tabTo("Search")
	x.press(kb.Enter)
	x.walk("search")
	x.tabTo("Retry group")
	x.enter()
	x.walk("confirm")
	x.tabTo("rate")
	x.keys("a", chromedp.KeyModifiers(chromedp.ModifierCtrl))
	x.press("1000")
	x.tabTo("count")
	x.press("5") // groups are shown with the largest first
	x.enter()
	x.await("Retry: done")
	x.walk("done")
	x.tabTo("Look again")
	x.enter()
	x.tabTo("List all")
	x.enter()
	x.walk("list")
	x.tabTo("01") // an id
	x.enter()
	x.walk("message")
	x.tabTo("Edit it")
	x.enter()
	x.walk("edit")
	x.tabTo("body")
	x.keys("a", chromedp.KeyModifiers(chromedp.ModifierCtrl))
	x.press(`{"ID":8}`)
	x.tabTo("Show what changes")
	x.enter()
	x.await("What changes")
	x.walk("change")
	x.tabTo("count")
	x.press("1")
	x.tabTo("Send")
	x.enter()
	x.await("Edit: done")
	x.open("/errors")
	x.tabTo("Archive all")
	x.enter()
	x.tabTo("rate")
	x.keys("a", chromedp.KeyModifiers(chromedp.ModifierCtrl))
	x.press("1")
	x.tabTo("count")
	x.press("2")
	x.enter()
	x.tabTo("Stop")
	x.changes()
	if got := x.focus(); !strings.HasPrefix(got.Name, "Stop") {
		x.Errorf("the focus has gone to %+v when the page changed by itself", got)
	}
	x.enter()
	x.await("It was stopped from this page")
	if m := x.broker.Messages("orders"); len(m) != 6 || string(m[5].Body) != `{"ID":8}` {
		x.Errorf("sent are %+v", m)
	}
	setup := x.serve(1, "shop", "1.8.2", "stock", true)
	for _, path := range []string{"/services", "/deferred", "/actions", "/log"} {
		x.open(path)
		x.walk(path)
	}
	x.open("/services?queue=stock")
	x.walk("queue")
	x.tabTo("Pause…")
	x.enter()
	x.walk("order")
	x.tabTo("count")
	x.press("1")
	x.enter()
	x.await("1 of 1 instance have done it")
	if !setup.Stats().Paused {
		x.Error("the queue is not paused")
	}
	x.clean("keyboard")
}

// place is what has the focus.
type place struct {
	At   int    // its place among what can have the focus; -1 is nothing of that
	Name string // what a reader hears, or the name of a field
	Seen bool   // it is in the window, and a ring is around it
}

// places are what somebody can act on, in the order of the page.
const places = `[...document.querySelectorAll("a[href], button, input:not([type=hidden]), textarea, summary, [tabindex='0']")].filter(e => e.checkVisibility())`

// focus is what has the focus.
func (x *bench) focus() place {
	x.Helper()
	return evaluate[place](x, `(() => {
		const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);
		return {
			At: `+places+`.indexOf(e), Name: e.getAttribute("aria-label") || e.name || e.innerText || "",
			Seen: box.width > 0 && box.height > 0 && box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth && style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
		};
	})()`)
}

func (x *bench) keys(keys string, options ...chromedp.KeyOption) {
	x.Helper()
	x.run(chromedp.KeyEvent(keys, options...))
}

// press presses keys, one after the other.
func (x *bench) press(keys string) {
	x.Helper()
	x.keys(keys)
}

// enter presses Enter, and waits for the page behind it.
func (x *bench) enter() {
	x.Helper()
	_, err := chromedp.RunResponse(x.tab, chromedp.KeyEvent(kb.Enter))
	x.try(err)
}

// tabTo presses Tab until something has the focus whose name begins so.
func (x *bench) tabTo(name string) {
	x.Helper()
	var met []string
	for range evaluate[int](x, places+".length") + 2 { // it may begin in the middle
		x.press(kb.Tab)
		at := x.focus()
		if at.At >= 0 && strings.HasPrefix(at.Name, name) {
			return
		}
		met = append(met, at.Name)
	}
	x.Fatalf("%q is not reached by Tab: %q", name, met)
}

// skips: the first thing on a page leads past the navigation.
func (x *bench) skips() {
	x.Helper()
	x.press(kb.Tab)
	if at := x.focus(); at.At != 0 || !at.Seen || at.Name != "To the content" {
		x.Errorf("the first Tab leads to %+v", at)
	}
	x.press(kb.Enter)
	x.press(kb.Tab)
	if !evaluate[bool](x, `document.querySelector("main").contains(document.activeElement)`) {
		x.Errorf("behind the navigation is %+v", x.focus())
	}
}

// walk presses Tab until it has been everywhere: in the order of the page, once, and nowhere unseen. Then Tab with Shift
// leads back.
func (x *bench) walk(state string) {
	x.Helper()
	evaluate[bool](x, `document.activeElement.blur(), getSelection().removeAllRanges(), scrollTo(0, 0), true`)
	n, first := evaluate[int](x, places+".length"), -1
	for i := range n {
		x.press(kb.Tab)
		at := x.focus()
		if i == 0 {
			first = at.At // where Tab goes on is where the focus was
		}
		if at.At < 0 && i > 0 { // the end of the page: the browser's own things
			x.press(kb.Tab)
			at = x.focus()
		}
		if want := (first + i) % n; at.At != want || !at.Seen {
			x.Fatalf("%s: Tab %d leads to %+v, want number %d of %d", state, i+1, at, want, n)
		}
	}
	x.press(kb.Tab)
	before := x.focus()
	x.keys(kb.Tab, chromedp.KeyModifiers(chromedp.ModifierShift))
	if at := x.focus(); n > 1 && at == before {
		x.Errorf("%s: Tab with Shift stays at %+v", state, at)
	}
}
