package schedule

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// seeds is how many runs TestDeaths makes.
const seeds = 200

// TestDeaths: instances die between any two writes to the broker, again and again, and are
// replaced. No due time is missing, none is early, and what comes twice has the same id.
func TestDeaths(t *testing.T) {
	t.Parallel()
	total, deaths := 0, 0
	for seed := range seeds {
		inBubble(t, func(t *testing.T, r *rig) {
			d := &dying{r: r, rand: rand.New(rand.NewPCG(uint64(seed), 0))}
			d.run()
			total += d.repeated
			deaths += d.deaths
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d deaths; %d due times came twice, under the same id", deaths, total)
	if deaths < seeds || total == 0 {
		t.Error("the deaths were not where they could do harm")
	}
}

// dying is a service whose instances die.
type dying struct {
	r                      *rig
	rand                   *rand.Rand
	instances              []*instance
	made, deaths, repeated int
}

// schedules are those of the service.
var schedules = map[string]string{"five": "*/5 * * * * *", "seven": "*/7 * * * * *", "every": "@every 3s"}

// add starts another instance.
func (d *dying) add() {
	d.made++
	i := d.r.instance(fmt.Sprint("instance ", d.made))
	for name, cron := range schedules {
		i.add(name, cron, CatchUp(All, time.Hour))
	}
	d.instances = append(d.instances, i.start())
}

func (d *dying) run() {
	r := d.r
	d.add()
	d.add()
	time.Sleep(10 * time.Second) // each schedule has its token
	began := time.Now()
	for range 12 {
		n := d.rand.IntN(len(d.instances))
		doomed := d.instances[n]
		doomed.mu.Lock()
		doomed.writes = 1 + d.rand.IntN(60)
		doomed.mu.Unlock()
		time.Sleep(time.Duration(d.rand.IntN(6000)) * time.Millisecond)
		doomed.mu.Lock()
		dead := doomed.dead
		doomed.mu.Unlock()
		if dead {
			d.deaths++
			doomed.bury()
			d.instances[n] = d.instances[len(d.instances)-1]
			d.instances = d.instances[:len(d.instances)-1]
			d.add()
		}
	}
	d.add() // one that does not die
	until := time.Now()
	time.Sleep(30 * time.Second)
	for name, cron := range schedules {
		if cron[0] != '@' {
			r.between(name, cron, began, until)
		}
		_, repeated := r.seen(name)
		d.repeated += repeated
	}
	r.steady("every", 3*time.Second)
}
