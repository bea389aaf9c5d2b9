package order_test

import (
	"flag"
	"strings"
	"testing"

	"github.com/harebus/harebus/internal/mutant"
)

var mutations = flag.Bool("mutations", false, "break the library on purpose, and see that the tests notice it")

// mutants are mistakes that break the order of a key, or lose messages.
var mutants = []mutant.Mutant{
	{
		Name: "the key is not blocked", File: "internal/lanes/lanes.go",
		Old:    "\tcase !blocked && len(of.queue) > 0 && of.moving == nil:\n",
		New:    "\tcase len(of.queue) > 0 && of.moving == nil && (!blocked || len(of.parked) > 0 && of.parked[0].Due.After(time.Now())):\n",
		Breaks: "ORDER",
	},
	{
		Name: "no barrier", File: "internal/consume/lane.go",
		Old:    "\t\tt.await(loading)\n",
		New:    "\t\tt.fence = 1\n\t\tif err := t.begin(); err != nil {\n\t\t\treturn err\n\t\t}\n",
		Breaks: "ORDER",
	},
	{
		Name: "parked messages in the order of their arrival", File: "internal/lanes/lanes.go",
		Old: "\tof.parked = slices.Insert(of.parked, at, m)\n", New: "\tat = len(of.parked)\n\tof.parked = slices.Insert(of.parked, at, m)\n",
		Breaks: "ORDER",
	},
	{
		Name: "a prefetch that shrinks", File: "internal/consume/tenure.go",
		Old: "t.consume(queue, order.Window)", New: "t.consume(queue, 1+int(time.Now().UnixMicro()%2)*4)",
		Breaks: "ORDER",
	},
	{
		Name: "the next one overtakes a replacement", File: "internal/lanes/lanes.go",
		Old: "\t\tif number <= first.Number {\n", New: "\t\tif false && number <= first.Number {\n",
		Breaks: "ORDER",
	},
	{
		Name: "a replacement gets a number of its own", File: "internal/lanes/lanes.go",
		Old: "\t\tp.Copy = m.Copy + 1\n", New: "\t\tp.Copy, p.Number = m.Copy+1, l.number()\n",
		Breaks: "ORDER",
	},
	{
		Name: "a copy on its way does not block", File: "internal/lanes/lanes.go",
		Old: "\tblocked := len(of.parked)+len(of.coming) > 0\n", New: "\tblocked := len(of.parked) > 0\n",
		Breaks: "ORDER",
	},
	{
		Name: "a stop cancels first", File: "internal/consume/tenure.go",
		Old: "\tt.c.setFeed(nil, why, stopped)\n\tt.c.waitHands()\n", New: "\tt.c.setFeed(nil, why, stopped)\n\tif t.queue != nil {\n\t\t_ = t.queue.cancel()\n\t}\n\t_ = t.parking.cancel()\n\tt.c.waitHands()\n",
		Breaks: "ORDER",
	},
	{
		Name: "handlers of a lost tenure are not waited for", File: "internal/consume/tenure.go",
		Old: "\tt.c.setFeed(nil, err, false)\n\tt.c.waitHands()\n", New: "\tt.c.setFeed(nil, err, false)\n", Breaks: "TestLostTenure",
	},
	{
		Name: "handlers of a lost tenure are not cancelled", File: "internal/consume/tenure.go",
		Old: "\tt.cancel(fmt.Errorf(\"%w: %w\", errLost, err))\n", New: "", Breaks: "TestLostTenure",
	},
	{
		Name: "acks wait while a message is handled that perhaps ends the process", File: "internal/consume/lane.go",
		Old: "\tif t.settleAcks() != nil {\n", New: "\tif false {\n", Breaks: "TestPoison",
	},
	{
		Name: "a word is acknowledged when it is carried out", File: "internal/consume/word.go",
		Old: "\td.feed.acks.Done(d.Raw.DeliveryTag) // it is sent before the message is handled: see announce\n",
		New: "", Breaks: "TestRetryOfPoison",
	},
	{
		Name: "a message is handled early", File: "internal/lanes/lanes.go",
		Old: "\t\t\tif !first.Due.After(now) {\n", New: "\t\t\tif true {\n", Breaks: "TestFailure",
	},
	{
		Name: "a full parking queue takes more", File: "internal/consume/lane.go", // which also says no when the lanes do not
		Old: "\treturn d.lane.Parked || !full\n", New: "\treturn d.lane.Parked || !full || true\n", Breaks: "TestFullOfKeys",
	},
	{
		Name: "the original is acknowledged without a copy", File: "internal/resend/order.go",
		Old: "\tsent := c.send(purpose, out, cause)\n", New: "\tsent := purpose == Postpone || c.send(purpose, out, cause)\n",
		Breaks: "NOLOSS",
	},
	{
		Name: "a message that a predecessor has parked is handled from the queue, too", File: "internal/lanes/lanes.go",
		Old: "\tif m.Again && m.Key != \"\" && l.loaded[m.ID] && !l.repeated[m.Key] {\n", New: "\tif false {\n",
		Breaks: "ORDER",
	},
	{
		Name: "the router acknowledges before the confirm", File: "internal/resend/route.go",
		Old: "\terr := d.send(partition, key,", New: "\td.Ack()\n\terr := d.send(partition, key,", Breaks: "TestRouterConfirms",
	},
	{
		Name: "messages of a key go to each partition in turn", File: "internal/resend/route.go",
		Old: "\tif key == \"\" {\n\t\treturn all", New: "\tif true {\n\t\treturn all", Breaks: "ORDER",
	},
	{
		Name: "two owners: a partition is handed over while its handlers run", File: "internal/consume/tenure.go",
		Old: "\t\tcase errors.Is(err, errChanging), errors.Is(err, errHandOver):\n\t\t\tt.leave(err, false)\n", New: "\t\tcase errors.Is(err, errHandOver):\n\t\t\tt.shut()\n\t\t\treturn err\n\t\tcase errors.Is(err, errChanging):\n\t\t\tt.leave(err, false)\n",
		Breaks: "TestHandOverWaits",
	},
	{
		Name: "an instance with another number of partitions takes its turn", File: "internal/lanes/place.go",
		Old: "\tif mine == theirs {\n", New: "\tif true {\n", Breaks: "TestRedivided",
	},
	{
		Name: "a copy that comes late is handled", File: "internal/lanes/route.go",
		Old: "\tif known && m.Route.compare(last) <= 0 {\n", New: "\tif false && known && m.Route.compare(last) <= 0 {\n", Breaks: "TestLateCopy",
	},
	{
		Name: "nobody gives up what is too much", File: "internal/consume/shares.go",
		Old: "\t\tif surplus > 0 && time.Since(s.gave[c]) > stays {\n", New: "\t\tif false {\n", Breaks: "TestShares",
	},
}

// TestMutantsFit: each mutant still finds its line.
func TestMutantsFit(t *testing.T) {
	t.Parallel()
	if err := mutant.Fit(mutant.Above(t), mutants); err != nil {
		t.Error(err)
	}
}

// TestMutants: the schedules of TestChaos notice each mistake.
func TestMutants(t *testing.T) {
	if !*mutations {
		t.Log("not asked for; run with -mutations")
		return
	}
	mutant.Notice(t, mutant.Above(t), mutants, func(m mutant.Mutant) []string {
		test, most := "TestChaos", "300s"
		if strings.HasPrefix(m.Breaks, "Test") {
			test, most = m.Breaks, "60s" // one mistake makes a message end its process for ever
		}
		// What only some schedules show is looked for in further ones.
		return []string{".", "-timeout", most, "-run", "^" + test + "$", "-count=4", "-failfast", "-schedules", "200"}
	})
}
