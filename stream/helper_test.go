package stream_test

import (
	"runtime"

	"github.com/harebus/harebus/brokertest"
)

func goexit() { runtime.Goexit() }

// refuseParking has the error queue take nothing.
func (r *rig) refuseParking() *brokertest.Injection {
	return r.broker.Inject(brokertest.Fault{On: "basic.publish", Times: -1, Do: brokertest.Nack, Match: func(f brokertest.Frame) bool {
		return f.RoutingKey == "error"
	}})
}
