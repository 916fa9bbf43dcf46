// Puts, gets, lists and deletes an object through a gateway, and shows what an error says.
//
// Usage: objects HOST:PORT
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	pb "xdpfs.dev/object/xdpfs/object/v1"
)

const (
	bucket    = "example-go"
	key       = "greetings/first"
	partBytes = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// put stores the bytes: a header, parts, and a trailer with their checksum.
func put(ctx context.Context, store pb.ObjectServiceClient, data []byte, wanted *pb.Precondition) (*pb.Object, error) {
	stream, err := store.PutObject(ctx)
	if err != nil {
		return nil, err
	}
	header := &pb.PutObjectHeader{Bucket: bucket, Key: key, Precondition: wanted}
	messages := []*pb.PutObjectRequest{{Step: &pb.PutObjectRequest_Header{Header: header}}}
	for start := 0; start < len(data); start += partBytes {
		end := start + partBytes
		if end > len(data) {
			end = len(data)
		}
		messages = append(messages, &pb.PutObjectRequest{Step: &pb.PutObjectRequest_Part{Part: data[start:end]}})
	}
	trailer := &pb.Trailer{Crc32C: crc32.Checksum(data, castagnoli)}
	messages = append(messages, &pb.PutObjectRequest{Step: &pb.PutObjectRequest_Trailer{Trailer: trailer}})
	for _, message := range messages {
		// io.EOF: the gateway has answered already, and says why below.
		if err := stream.Send(message); err != nil && err != io.EOF {
			return nil, err
		}
	}
	answer, err := stream.CloseAndRecv()
	return answer.GetObject(), err
}

// get gives the bytes of the object, which have the checksum that the trailer says.
func get(ctx context.Context, store pb.ObjectServiceClient) ([]byte, error) {
	stream, err := store.GetObject(ctx, &pb.GetObjectRequest{Bucket: bucket, Key: key})
	if err != nil {
		return nil, err
	}
	var data []byte
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			return nil, errors.New("the stream ended without a trailer")
		}
		if err != nil {
			return nil, err
		}
		data = append(data, message.GetPart()...)
		if trailer := message.GetTrailer(); trailer != nil {
			if crc32.Checksum(data, castagnoli) != trailer.Crc32C {
				return nil, errors.New("the bytes were damaged on their way")
			}
			return data, nil
		}
	}
}

// reason gives the stable reason of a call that failed; it is empty if the connection broke.
func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "xdpfs" {
			return info.Reason
		}
	}
	return ""
}

func main() {
	channel, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	store := pb.NewObjectServiceClient(channel)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if accessKey := os.Getenv("XDPFS_ACCESS_KEY"); accessKey != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+accessKey)
	}

	if _, err := store.CreateBucket(ctx, &pb.CreateBucketRequest{Bucket: bucket}); err != nil {
		log.Fatal(err)
	}
	data := bytes.Repeat([]byte("greetings from Go\n"), 200_000)
	onlyNew := &pb.Precondition{Kind: &pb.Precondition_IfNoneMatchAny{IfNoneMatchAny: true}}
	made, err := put(ctx, store, data, onlyNew)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("put %d bytes as version %d, on %d nodes\n", made.Size, made.Version, made.DurableReplicas)
	got, err := get(ctx, store)
	if err != nil || !bytes.Equal(got, data) {
		log.Fatalf("it came back otherwise: %v", err)
	}
	fmt.Printf("got %d bytes, the same\n", len(got))
	_, err = put(ctx, store, []byte("other"), onlyNew)
	fmt.Println("put again, only if there is none:", status.Code(err), reason(err))
	listed, err := store.ListObjects(ctx, &pb.ListObjectsRequest{Bucket: bucket, Prefix: "greetings/"})
	if err != nil {
		log.Fatal(err)
	}
	for _, object := range listed.Objects {
		fmt.Println("listed:", object.Key)
	}
	if _, err := store.DeleteObject(ctx, &pb.DeleteObjectRequest{Bucket: bucket, Key: key}); err != nil {
		log.Fatal(err)
	}
	_, err = get(ctx, store)
	fmt.Println("get after the delete:", status.Code(err), reason(err))
	if _, err := store.DeleteBucket(ctx, &pb.DeleteBucketRequest{Bucket: bucket}); err != nil {
		log.Fatal(err)
	}
}
