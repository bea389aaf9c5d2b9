package zstd_test

import (
	"fmt"
	"strings"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/zstd"
)

func Example() {
	coding, err := zstd.New(zstd.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	var cfg harebus.Config
	cfg.Payload.Compress.With = coding

	body := strings.Repeat("nothing to report. ", 1000)
	small, err := coding.Compress(nil, []byte(body))
	fmt.Println(len(body), "bytes become less than 100:", len(small) < 100, err)
	_, err = coding.Decompress(small, 1000)
	fmt.Println(err)
	// Output:
	// 19000 bytes become less than 100: true <nil>
	// the decompressed body is too large
}
